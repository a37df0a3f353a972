"""The autoscaler's memory for one model: the demand it has heard, what it said, and why."""

from dataclasses import replace

from modelyard.api.inference_model import Decision, InferenceModel
from modelyard.controller.autoscaler import History, decide
from modelyard.controller.types import Demand, PodPhase, PodView

_DECISIONS_KEPT = 5


class Scaler:
    """Turns demand into desired replicas."""

    def __init__(self, now: float):
        self.desired: int | None = None
        self.decisions: tuple[Decision, ...] = ()
        self._history = History(heard_since=now)
        self._load = 0

    def hear(self, model: InferenceModel, current: int, pods: tuple[PodView, ...], demand: Demand, now: float) -> bool:
        """Takes the demand of this moment, and returns whether the number of replicas shall change.

        Both the load until now and the load from now on count: the window may begin in between.
        """
        window, load = model.spec.scaling.scale_down_delay.total_seconds(), demand.in_flight + demand.queued
        history = self._history.add(now, self._load, window).add(now, load, window)
        self._history, self._load = replace(history, heard_since=self._history.heard_since), load
        ready = sum(pod.phase is PodPhase.READY for pod in pods)
        failed = sum(pod.problem is not None and pod.phase is not PodPhase.TERMINATING for pod in pods)
        decision = decide(model, current, ready, demand, self._history, now, failed_replicas=failed)
        if decision is None:
            return False
        self.desired = decision.to
        self.decisions = (decision, *self.decisions)[:_DECISIONS_KEPT]
        return True
