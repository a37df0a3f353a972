"""The autoscaler's memory in the leader: what it last said of each model, and the demand it has heard.

It is woken by a gateway's word for a model at once, and by the clock each second for those models that could go down.
"""

import time
from dataclasses import replace
from typing import NamedTuple

from modelyard.api.inference_model import Decision, InferenceModel
from modelyard.controller import metrics
from modelyard.controller.autoscaler import History, bounds, decide
from modelyard.controller.demand import DemandFeeds
from modelyard.controller.queue import Urgency, WorkQueue
from modelyard.controller.types import Demand, Key

_DECISIONS_KEPT = 5


class Noted(NamedTuple):
    """What the last reconciliation saw of a model that can scale."""

    model: InferenceModel
    current: int
    ready: int
    failed: int


class Scaler:
    """Turns demand into desired replicas and marks the models whose number changes."""

    def __init__(self, queue: WorkQueue):
        self.feeds = DemandFeeds(self.heard)
        self._queue = queue
        self._noted: dict[Key, Noted] = {}
        self._desired: dict[Key, int] = {}
        self._decisions: dict[Key, tuple[Decision, ...]] = {}
        self._histories: dict[Key, History] = {}
        self._loads: dict[Key, int] = {}

    def desired(self, key: Key) -> int | None:
        """Returns the replicas last decided on, None when nothing was decided yet."""
        return self._desired.get(key)

    def decisions(self, key: Key) -> tuple[Decision, ...]:
        """Returns this leader's decisions, newest first; empty when it made none yet."""
        return self._decisions.get(key, ())

    def note(self, key: Key, model: InferenceModel, current: int, ready: int, failed: int) -> None:
        """Takes over what a reconciliation saw, and decides anew."""
        low, high = bounds(model)
        if model.spec.scaling.mode == "External" or (low == high == current):
            self.forget(key)
            return
        if key not in self._decisions:
            self._decisions[key] = tuple(model.status.scaling.decisions)
        self._noted[key] = Noted(model, current, ready, failed)
        self._desired[key] = current
        self._decide(key)

    def forget(self, key: Key) -> None:
        """Drops a model that is gone or does not scale."""
        for memory in (self._noted, self._desired, self._decisions, self._histories, self._loads):
            memory.pop(key, None)

    def heard(self, keys: set[Key]) -> None:
        """Decides for models whose demand changed."""
        for key in keys & self._noted.keys():
            self._decide(key)

    def tick(self) -> None:
        """Decides for models that run more than the fewest replicas; call it each second."""
        self.feeds.heard_since(time.monotonic())
        for key, noted in tuple(self._noted.items()):
            if noted.current > noted.model.spec.scaling.min_replicas:
                self._decide(key)

    async def reset(self) -> None:
        """Forgets everything: another process leads now."""
        await self.feeds.close()
        for memory in (self._noted, self._desired, self._decisions, self._histories, self._loads):
            memory.clear()

    def _decide(self, key: Key) -> None:
        noted, now = self._noted[key], time.time()
        demand = self.feeds.demand(key)
        history = self._remember(key, noted, demand, now)
        decision = decide(noted.model, noted.current, noted.ready, demand, history, now, failed_replicas=noted.failed)
        if decision is None:
            return
        self._noted[key] = noted._replace(current=decision.to)
        self._desired[key] = decision.to
        self._decisions[key] = (decision, *self._decisions.get(key, ()))[:_DECISIONS_KEPT]
        metrics.SCALE_DECISIONS.labels("up" if decision.to > decision.from_ else "down").inc()
        self._queue.add(key, Urgency.SCALING)

    def _remember(self, key: Key, noted: Noted, demand: Demand, now: float) -> History:
        """Adds the load until now and the load from now on; both count, since the window may begin in between."""
        window, load = noted.model.spec.scaling.scale_down_delay.total_seconds(), demand.in_flight + demand.queued
        history = self._histories.get(key, History()).add(now, self._loads.get(key, 0), window).add(now, load, window)
        self._histories[key], self._loads[key] = history, load
        monotonic = time.monotonic()
        since = self.feeds.heard_since(monotonic)
        return replace(history, heard_since=None if since is None else now - (monotonic - since))
