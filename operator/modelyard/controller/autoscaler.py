"""How many replicas a model needs: a pure decision from the gateways' demand.

Up in one step to what the demand asks for, counting replicas that still start; down to the highest demand of the last
`scaleDownDelay`, and never while a replica loads. What is not known never scales down: a leader that has just taken over, or
that misses a gateway's word, waits until it has heard all of them for a whole `scaleDownDelay`.
"""

from dataclasses import dataclass
from math import ceil

from modelyard.api.inference_model import Decision, InferenceModel
from modelyard.api.times import rfc3339
from modelyard.controller.types import Demand


@dataclass(frozen=True, slots=True)
class History:
    """What was heard of a model's demand. Times are seconds on one clock.

    ``heard_since`` is when the demand began to be known without a gap, None when it is not known now. ``peaks`` are (time, load)
    in falling order of load, each the highest load from its time on; they are few, whatever the window.
    """

    heard_since: float | None = None
    peaks: tuple[tuple[float, int], ...] = ()

    def add(self, now: float, load: int, window: float) -> "History":
        """Returns the history with ``load`` until ``now``; what is older than ``window`` seconds goes."""
        kept = tuple((time, peak) for time, peak in self.peaks if peak > load and time >= now - window)
        return History(self.heard_since, (*kept, (now, load)))

    def peak(self, since: float) -> int:
        """Returns the highest load since a time."""
        return max((load for time, load in self.peaks if time >= since), default=0)


def bounds(model: InferenceModel) -> tuple[int, int]:
    """Returns the fewest and the most replicas."""
    scaling = model.spec.scaling
    return scaling.min_replicas, max(scaling.max_replicas or 1, scaling.min_replicas)


def clamp(model: InferenceModel, replicas: int) -> int:
    """Returns the number within the model's bounds."""
    low, high = bounds(model)
    return min(max(replicas, low), high)


def decide(  # noqa: PLR0917  (shared with `modelyard up`)
    model: InferenceModel,
    current_replicas: int,
    ready_replicas: int,
    demand: Demand,
    history: History,
    now: float,
    *,
    failed_replicas: int = 0,
) -> Decision | None:
    """Returns the change of replicas that the demand calls for, explained, or None.

    ``history`` and ``now`` (seconds since the epoch) share a clock, and the history holds the present demand too. Failed replicas
    cannot start; they are not waited for.
    """
    scaling = model.spec.scaling
    if scaling.mode == "External":
        return None
    low, high = bounds(model)
    if (within := clamp(model, current_replicas)) != current_replicas:
        return _decision(now, current_replicas, within, f"bounds are {low} to {high}")
    load, target = demand.in_flight + demand.queued, scaling.target_concurrency
    if (wanted := clamp(model, ceil(load / target))) > current_replicas:
        why = f"{demand.in_flight} in flight and {demand.queued} queued, {target} per replica, at most {high}"
        return _decision(now, current_replicas, wanted, why)
    delay = scaling.scale_down_delay.total_seconds()
    if history.heard_since is None or now - history.heard_since < delay or ready_replicas < current_replicas - failed_replicas:
        return None
    peak = max(history.peak(now - delay), load)
    if (wanted := clamp(model, ceil(peak / target))) < current_replicas:
        why = f"at most {peak} in flight and queued for {delay:.0f} s, {target} per replica, at least {low}"
        return _decision(now, current_replicas, wanted, why)
    return None


def _decision(now: float, before: int, after: int, why: str) -> Decision:
    return Decision(time=rfc3339(now), from_=before, to=after, why=why)
