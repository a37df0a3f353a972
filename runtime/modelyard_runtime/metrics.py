"""Metrics of the runtime, in vLLM's names, meanings and buckets under the prefix ``modelyard_``.

https://docs.vllm.ai/en/stable/design/metrics.html
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_FIRST_TOKEN = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560)
_BETWEEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
_REQUEST = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)


@dataclass(frozen=True, slots=True)
class Load:
    """What is going on at a moment. ``kv_cache_usage`` is a share of 1."""

    running: int = 0
    waiting: int = 0
    kv_cache_usage: float = 0.0


class Exposition:
    """What ``/metrics`` shows: instruments that all models of the process share, told apart by label. Used from one event loop."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        self._loads: dict[str, Callable[[], Load]] = {}
        self._registry.register(_Gauges(self._loads))
        self._histograms: dict[str, Histogram] = {}
        self._counters: dict[str, Counter] = {}

    def histogram(self, name: str, text: str, buckets: tuple[float, ...], labels: tuple[str, ...] = ("model_name",)) -> Histogram:
        """Returns the histogram of that name, made when it is asked for first."""
        if name not in self._histograms:
            self._histograms[name] = Histogram(f"modelyard_{name}", text, labels, buckets=buckets, registry=self._registry)
        return self._histograms[name]

    def counter(self, name: str, text: str, labels: tuple[str, ...] = ("model_name",)) -> Counter:
        """Returns the counter of that name, made when it is asked for first."""
        if name not in self._counters:
            self._counters[name] = Counter(f"modelyard_{name}", text, labels, registry=self._registry)
        return self._counters[name]

    def watch(self, model: str, load: Callable[[], Load]) -> None:
        """Shows a model's load as gauges from now on."""
        self._loads[model] = load

    def register(self, collector: Collector) -> None:
        """Shows what a collector of another part reads when it is asked."""
        self._registry.register(collector)

    def render(self) -> bytes:
        """Returns Prometheus' text format."""
        return generate_latest(self._registry)


class Metrics:
    """One model's instruments. Used from one event loop."""

    def __init__(self, exposition: Exposition, model: str, load: Callable[[], Load]):
        exposition.watch(model, load)
        self._model = model

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return exposition.histogram(name, text, buckets).labels(model)

        def counter(name: str, text: str) -> Counter:
            return exposition.counter(name, text).labels(model)

        self.prompt_tokens = counter("prompt_tokens", "Number of prefill tokens processed.")
        self.generation_tokens = counter("generation_tokens", "Number of generation tokens processed.")
        self.first_token = histogram("time_to_first_token_seconds", "Time to first token in seconds.", _FIRST_TOKEN)
        self.between = histogram("inter_token_latency_seconds", "Time between two tokens of a request in seconds.", _BETWEEN)
        self.request = histogram("e2e_request_latency_seconds", "End to end request latency in seconds.", _REQUEST)
        self.queue = histogram("request_queue_time_seconds", "Time that a request waited for its turn in seconds.", _REQUEST)
        self._success = exposition.counter("request_success", "Requests by how they ended.", ("model_name", "finished_reason"))

    def finished(self, reason: str) -> None:
        """Counts a request that ended: stop, length or abort."""
        self._success.labels(self._model, reason).inc()


class Stopwatch:
    """Observes one sequence: its wait, its tokens and its end. Times are monotonic seconds."""

    def __init__(self, metrics: Metrics, prompt_tokens: int):
        self._metrics = metrics
        self._prompt_tokens = prompt_tokens
        self._arrived = time.monotonic()
        self._last: float | None = None
        self._reason: str | None = None

    def begun(self) -> None:
        """Its turn has come."""
        self._metrics.queue.observe(time.monotonic() - self._arrived)
        self._metrics.prompt_tokens.inc(self._prompt_tokens)

    def tokens(self, count: int) -> None:
        """``count`` tokens came, at least one."""
        now = time.monotonic()
        if self._last is None:
            self._metrics.first_token.observe(now - self._arrived)
        else:
            self._metrics.between.observe((now - self._last) / count)
        self._last = now
        self._metrics.generation_tokens.inc(count)

    def finished(self, reason: str) -> None:
        """It is complete: stop or length."""
        self._reason = reason
        self._metrics.request.observe(time.monotonic() - self._arrived)
        self._metrics.finished(reason)

    def ended(self) -> None:
        """Nothing more comes. What was not finished was aborted."""
        if self._reason is None:
            self.finished("abort")


class _Gauges(Collector):
    """Reads the loads when they are asked for, so that no gauge is ever stale."""

    def __init__(self, loads: dict[str, Callable[[], Load]]):
        self._loads = loads

    def collect(self) -> Iterator[Metric]:
        loads = {model: load() for model, load in self._loads.items()}
        for name, text, read in _GAUGES:
            gauge = GaugeMetricFamily(f"modelyard_{name}", text, labels=["model_name"])
            for model, load in loads.items():
                gauge.add_metric([model], read(load))
            yield gauge


_GAUGES: tuple[tuple[str, str, Callable[[Load], float]], ...] = (
    ("num_requests_running", "Number of requests in model execution batches.", lambda load: load.running),
    ("num_requests_waiting", "Number of requests waiting to be processed.", lambda load: load.waiting),
    ("kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.", lambda load: load.kv_cache_usage),
)
