"""What is going on in each model, for ``/metrics``: read when that is asked for, while `metrics` takes down what happens."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from modelyard_runtime.engine.base import STEP_SIZES, EngineStats

PREFIX = "modelyard_"


@dataclass(frozen=True, slots=True)
class Load:
    """What is going on at a moment. ``kv_cache_usage`` is a share of 1; ``engine`` is a generation engine's own account.

    ``by_capability`` has the requests of each capability that its limiter lets work, and those that it makes wait.
    """

    running: int = 0
    waiting: int = 0
    kv_cache_usage: float = 0.0
    engine: EngineStats | None = None
    by_capability: Mapping[str, tuple[int, int]] = field(default_factory=dict)


_GAUGES: tuple[tuple[str, str, Callable[[Load], float]], ...] = (
    ("num_requests_running", "Number of requests in model execution batches.", lambda load: load.running),
    ("num_requests_waiting", "Number of requests waiting to be processed.", lambda load: load.waiting),
    ("kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.", lambda load: load.kv_cache_usage),
)
_COUNTERS: tuple[tuple[str, str, Callable[[EngineStats], float]], ...] = (
    ("num_preemptions", "Times that a sequence had to make room for others.", lambda stats: stats.preemptions_total),
    ("prefix_cache_queries", "Prompt tokens looked up in the prefix cache.", lambda stats: stats.prefix_cache_queries_total),
    ("prefix_cache_hits", "Prompt tokens found in the prefix cache.", lambda stats: stats.prefix_cache_hits_total),
    ("spec_decode_num_drafts", "Times that speculation proposed tokens for a sequence.", lambda stats: stats.drafts_total),
    ("spec_decode_num_draft_tokens", "Tokens that speculation proposed.", lambda stats: stats.draft_tokens_total),
    ("spec_decode_num_accepted_tokens", "Proposed tokens that were right.", lambda stats: stats.accepted_tokens_total),
    ("engine_steps", "Forward passes of the engine.", lambda stats: stats.steps_total),
    ("engine_restarts", "Times that the engine began anew after an error.", lambda stats: stats.restarts_total),
)


class Loads(Collector):
    """Reads the loads when they are asked for, so that no value is ever stale."""

    def __init__(self, loads: Mapping[str, Callable[[], Load]]):
        self._loads = loads

    def collect(self) -> Iterator[Metric]:
        """Yields gauges and counters, by model."""
        loads = {model: load() for model, load in self._loads.items()}
        engines = {model: load.engine for model, load in loads.items() if load.engine is not None}
        for name, text, read in _GAUGES:
            gauge = GaugeMetricFamily(PREFIX + name, text, labels=["model_name"])
            for model, load in loads.items():
                gauge.add_metric([model], read(load))
            yield gauge
        for name, text, count in _COUNTERS:
            counter = CounterMetricFamily(PREFIX + name, text, labels=["model_name"])
            for model, stats in engines.items():
                counter.add_metric([model], count(stats))
            yield counter
        yield _step_sizes(engines)
        yield from _by_capability(loads)
        yield _cache_config(engines)
        yield _adapters(engines)


def _step_sizes(engines: dict[str, EngineStats]) -> Metric:
    sizes = HistogramMetricFamily(f"{PREFIX}iteration_tokens_total", "Tokens of a step: read of prompts, and made.", labels=["model_name"])
    bounds = [*map(floatToGoString, STEP_SIZES), "+Inf"]
    for model, stats in engines.items():
        # In the text, bounds are spelled as Go does; counts are of a bound and those below.
        sizes.add_metric([model], list(zip(bounds, accumulate(stats.steps_by_size), strict=True)), stats.step_tokens_total)
    return sizes


def _by_capability(loads: dict[str, Load]) -> Iterator[Metric]:
    labels = ["model_name", "capability"]
    kinds = (("running", "worked on"), ("waiting", "waiting for their turn"))
    for index, (kind, text) in enumerate(kinds):
        gauge = GaugeMetricFamily(f"{PREFIX}capability_requests_{kind}", f"Requests {text}, by what they ask for.", labels=labels)
        for model, load in loads.items():
            for capability, counts in load.by_capability.items():
                gauge.add_metric([model, capability], counts[index])
        yield gauge


def _cache_config(engines: dict[str, EngineStats]) -> Metric:
    labels = ["model_name", "block_size", "num_gpu_blocks"]
    info = GaugeMetricFamily(f"{PREFIX}cache_config_info", "The KV cache: tokens of a block, and blocks.", labels=labels)
    for model, stats in engines.items():
        if stats.block_size:
            info.add_metric([model, str(stats.block_size), str(stats.blocks)], 1)
    return info


def _adapters(engines: dict[str, EngineStats]) -> Metric:
    """Returns the adapters in use; the value is the time, as gateways take the latest of several."""
    labels = ["model_name", "max_lora", "running_lora_adapters", "waiting_lora_adapters"]
    info = GaugeMetricFamily(f"{PREFIX}lora_requests_info", "Adapters of the running and of the waiting requests.", labels=labels)
    for model, stats in engines.items():
        if stats.max_adapters:
            used = [",".join(stats.running_adapters), ",".join(stats.waiting_adapters)]
            info.add_metric([model, str(stats.max_adapters), *used], time.time())
    return info
