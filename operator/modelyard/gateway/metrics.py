"""`modelyard_gateway_*`: plain integers on the hot path, turned into Prometheus samples when somebody scrapes.

Labels are bounded: models that exist, statuses, and a few causes. A name that no model has never becomes a label.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from modelyard.gateway.balancer import Group

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_PREFIX = "modelyard_gateway_"


class Histogram:
    """Seconds, counted in buckets."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(_BUCKETS) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        """Counts one observation."""
        self.counts[bisect_left(_BUCKETS, seconds)] += 1
        self.total += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """Returns cumulative counts by upper bound, as Prometheus wants them."""
        cumulated, sums = 0, []
        for bound, count in zip((*map(str, _BUCKETS), "+Inf"), self.counts, strict=True):
            cumulated += count
            sums.append((bound, float(cumulated)))
        return sums


@dataclass(slots=True)
class ModelStats:
    """Counts of one model; they go when the model goes."""

    requests: dict[int, int] = field(default_factory=dict)
    duration: Histogram = field(default_factory=Histogram)
    first_byte: Histogram = field(default_factory=Histogram)
    held: Histogram = field(default_factory=Histogram)
    failures: dict[str, int] = field(default_factory=dict)
    retries: int = 0

    def finish(self, status: int, seconds: float) -> None:
        """Counts a finished request."""
        self.requests[status] = self.requests.get(status, 0) + 1
        self.duration.observe(seconds)

    def fail(self, kind: str) -> None:
        """Counts a failure of a replica."""
        self.failures[kind] = self.failures.get(kind, 0) + 1


@dataclass(slots=True)
class GatewayStats:
    """Counts of the whole process. ``unrouted`` holds requests that reached no model."""

    unrouted: ModelStats = field(default_factory=ModelStats)
    buffered_bytes: int = 0
    connections: int = 0


class GatewayCollector(Collector):
    """Reads the counts at scrape time."""

    def __init__(
        self, stats: GatewayStats, groups: Callable[[], dict[str, Group]], held_bytes: Callable[[], int], log_lines_lost: Callable[[], int]
    ):
        self._stats = stats
        self._groups = groups
        self._held_bytes = held_bytes
        self._log_lines_lost = log_lines_lost

    def collect(self) -> Iterator[Metric]:
        """Yields every family."""
        groups = sorted(self._groups().items())
        yield from self._of_requests(groups)
        yield from _of_replicas(groups)
        yield _gauge("connections", "Client connections.", (), [((), self._stats.connections)])
        yield _gauge("buffered_bytes", "Bodies of requests in memory.", (), [((), self._stats.buffered_bytes)])
        yield _gauge("held_bytes", "Bodies of held requests in memory.", (), [((), self._held_bytes())])
        yield _counter(
            "access_log_lines_lost", "Lines dropped because standard output could not keep up.", (), [((), self._log_lines_lost())]
        )

    def _of_requests(self, groups: Groups) -> Iterator[Metric]:
        stats = [("", self._stats.unrouted), *((key, group.stats) for key, group in groups)]
        yield _counter("requests", "Requests by model and status; 499 is a client that left.", ("model", "status"), (
            ((key, str(status)), count) for key, one in stats for status, count in one.requests.items()
        ))  # fmt: skip
        yield _histogram(
            "request_duration_seconds", "Time from a request's last byte to its answer's.", ((k, s.duration) for k, s in stats)
        )
        yield _histogram(
            "time_to_first_byte_seconds",
            "Time from a request's last byte to its answer's first.",
            ((k, s.first_byte) for k, s in stats[1:]),
        )
        yield _histogram("hold_duration_seconds", "Time that held requests waited for a replica.", ((k, s.held) for k, s in stats[1:]))
        yield _counter("upstream_failures", "Requests that a replica failed, by cause.", ("model", "cause"), (
            ((key, cause), count) for key, one in stats[1:] for cause, count in one.failures.items()
        ))  # fmt: skip
        yield _counter(
            "upstream_retries", "Requests that were tried on a second replica.", ("model",), (((k,), s.retries) for k, s in stats[1:])
        )


def registry(collector: GatewayCollector) -> CollectorRegistry:
    """Returns a registry of the gateway's own metrics and the process's."""
    own = CollectorRegistry()
    own.register(collector)
    ProcessCollector(registry=own)
    return own


Samples = Iterable[tuple[tuple[str, ...], float]]
Groups = list[tuple[str, "Group"]]


def _of_replicas(groups: Groups) -> Iterator[Metric]:
    yield _gauge("requests_in_flight", "Requests that a replica works on.", ("model",), (((k,), g.in_flight) for k, g in groups))
    yield _gauge("requests_held", "Requests that wait for a replica.", ("model",), (((k,), g.room.waiting) for k, g in groups))
    yield _gauge("endpoints", "Ready replicas.", ("model",), (((k,), len(g.targets)) for k, g in groups))
    yield _gauge("endpoints_ejected", "Replicas left out because they failed.", ("model",), (
        ((key,), sum(target.ejected for target in group.targets)) for key, group in groups
    ))  # fmt: skip
    yield _gauge("upstream_connections_idle", "Connections to replicas that wait for a request.", ("model",), (
        ((key,), sum(target.pool.idle for target in group.targets)) for key, group in groups
    ))  # fmt: skip


def _counter(name: str, text: str, labels: tuple[str, ...], samples: Samples) -> Metric:
    family = CounterMetricFamily(_PREFIX + name, text, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family


def _gauge(name: str, text: str, labels: tuple[str, ...], samples: Samples) -> Metric:
    family = GaugeMetricFamily(_PREFIX + name, text, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family


def _histogram(name: str, text: str, samples: Iterable[tuple[str, Histogram]]) -> Metric:
    family = HistogramMetricFamily(_PREFIX + name, text, labels=("model",))
    for key, histogram in samples:
        family.add_metric((key,), histogram.buckets(), histogram.total)
    return family
