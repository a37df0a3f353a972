"""Metrics of the runtime, in vLLM's names, meanings and buckets under the prefix ``modelyard_``; on demand also under their plain names.

https://docs.vllm.ai/en/stable/design/metrics.html, and for the gauges that inference gateways route by:
https://github.com/kubernetes-sigs/gateway-api-inference-extension/tree/main/docs/proposals/003-model-server-protocol
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from modelyard_runtime.loads import PREFIX, Load, Loads
from modelyard_runtime.observation import observed

_PLAIN = "vllm:"
#: What vLLM has too, in name and meaning; the rest is ours alone.
VLLM_NAMES = frozenset(
    {
        "num_requests_running",
        "num_requests_waiting",
        "kv_cache_usage_perc",
        "cache_config_info",
        "lora_requests_info",
        "num_preemptions",
        "prefix_cache_queries",
        "prefix_cache_hits",
        "spec_decode_num_drafts",
        "spec_decode_num_draft_tokens",
        "spec_decode_num_accepted_tokens",
        "prompt_tokens",
        "generation_tokens",
        "iteration_tokens_total",
        "request_success",
        "time_to_first_token_seconds",
        "inter_token_latency_seconds",
        "request_time_per_output_token_seconds",
        "e2e_request_latency_seconds",
        "request_queue_time_seconds",
        "request_inference_time_seconds",
        "request_prefill_time_seconds",
        "request_decode_time_seconds",
        "request_prompt_tokens",
        "request_prefill_kv_computed_tokens",
        "request_generation_tokens",
        "request_max_num_generation_tokens",
        "request_params_max_tokens",
        "request_params_n",
    }
)

_FIRST_TOKEN = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560)
_BETWEEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
_REQUEST = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)
_WAIT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_TOKENS = tuple(mantissa * 10**exponent for exponent in range(6) for mantissa in (1, 2, 5))
_COUNT = (1, 2, 5, 10, 20)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Exposition:
    """What ``/metrics`` shows: instruments that all models of the process share, told apart by label. Used from one event loop.

    ``plain`` shows what vLLM has under its own names too, for the gateways and dashboards that look for those.
    """

    def __init__(self, *, plain: bool = False) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        self._loads: dict[str, Callable[[], Load]] = {}
        self._instruments: dict[str, Histogram | Counter] = {}
        self._by_model: list[Histogram | Counter] = []
        self._registry.register(Loads(self._loads))
        self._requests = self.counter("http_requests", "Requests by how they were answered.", ("method", "path", "status"))
        self._shown = (self._registry, _Plain(self._registry)) if plain else (self._registry,)

    def histogram(self, name: str, text: str, buckets: tuple[float, ...], labels: tuple[str, ...] = ("model_name",)) -> Histogram:
        """Returns the histogram of that name, made when it is asked for first."""
        made = self._instruments.get(name)
        if not isinstance(made, Histogram):
            made = Histogram(PREFIX + name, text, labels, buckets=buckets, registry=self._registry)
            self._keep(name, made, labels)
        return made

    def counter(self, name: str, text: str, labels: tuple[str, ...] = ("model_name",)) -> Counter:
        """Returns the counter of that name, made when it is asked for first."""
        made = self._instruments.get(name)
        if not isinstance(made, Counter):
            made = Counter(PREFIX + name, text, labels, registry=self._registry)
            self._keep(name, made, labels)
        return made

    def watch(self, model: str, load: Callable[[], Load]) -> None:
        """Shows a model's load from now on."""
        self._loads[model] = load

    def forget(self, model: str) -> None:
        """Shows nothing of a model any more: it has been removed."""
        self._loads.pop(model, None)
        for instrument in self._by_model:
            instrument.remove_by_labels({"model_name": model})

    def answered(self, method: str, path: str, status: int) -> None:
        """Counts a request. ``path`` is a route's and not a client's, who could make new series by it."""
        self._requests.labels(method if method in _METHODS else "other", path, str(status)).inc()

    def register(self, collector: Collector) -> None:
        """Shows what a collector of another part reads when it is asked."""
        self._registry.register(collector)

    def render(self) -> bytes:
        """Returns Prometheus' text format."""
        return b"".join(map(generate_latest, self._shown))

    def _keep(self, name: str, made: Histogram | Counter, labels: tuple[str, ...]) -> None:
        self._instruments[name] = made
        if "model_name" in labels:
            self._by_model.append(made)


class Metrics:
    """One model's instruments. Used from one event loop."""

    def __init__(self, exposition: Exposition, model: str, load: Callable[[], Load]):
        exposition.watch(model, load)
        self._exposition = exposition
        self._model = model

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return exposition.histogram(name, text, buckets).labels(model)

        def counter(name: str, text: str) -> Counter:
            return exposition.counter(name, text).labels(model)

        self.prompt_tokens = counter("prompt_tokens", "Number of prefill tokens processed.")
        self.generation_tokens = counter("generation_tokens", "Number of generation tokens processed.")
        self.first_token = histogram("time_to_first_token_seconds", "Time to first token in seconds.", _FIRST_TOKEN)
        self.between = histogram("inter_token_latency_seconds", "Time between two tokens of a request in seconds.", _BETWEEN)
        self.per_token = histogram("request_time_per_output_token_seconds", "Mean time between a request's tokens in seconds.", _BETWEEN)
        self.request = histogram("e2e_request_latency_seconds", "End to end request latency in seconds.", _REQUEST)
        self.queue = histogram("request_queue_time_seconds", "Time that a request waited for its turn in seconds.", _REQUEST)
        self.inference = histogram("request_inference_time_seconds", "Time that a request was worked on in seconds.", _REQUEST)
        self.prefill = histogram("request_prefill_time_seconds", "Time from a request's turn to its first token in seconds.", _REQUEST)
        self.decode = histogram("request_decode_time_seconds", "Time from a request's first token to its last in seconds.", _REQUEST)
        self.request_prompt = histogram("request_prompt_tokens", "Number of prefill tokens of a request.", _TOKENS)
        self.request_computed = histogram("request_prefill_kv_computed_tokens", "Prompt tokens that the cache did not have.", _TOKENS)
        self.request_generation = histogram("request_generation_tokens", "Number of generation tokens of a request.", _TOKENS)
        self._longest = histogram("request_max_num_generation_tokens", "Tokens of the longest answer of a request.", _TOKENS)
        self._max_tokens = histogram("request_params_max_tokens", "Number of tokens that an answer may have.", _TOKENS)
        self._n = histogram("request_params_n", "Number of answers that a request asks for.", _COUNT)
        self._success = exposition.counter("request_success", "Requests by how they ended.", ("model_name", "finished_reason"))

    def asked(self, *, max_tokens: int, n: int = 1) -> None:
        """Notes what a request wants generated."""
        self._max_tokens.observe(max_tokens)
        self._n.observe(n)

    def answered(self, tokens: int) -> None:
        """Notes the tokens of the longest answer that a request was given; without any there was none."""
        if tokens:
            self._longest.observe(tokens)

    def finished(self, reason: str) -> None:
        """Counts a request that ended: stop, length or abort."""
        self._success.labels(self._model, reason).inc()

    def queued(self, capability: str, seconds: float) -> None:
        """Notes how long a request waited for its turn at the limiter."""
        self.queue.observe(seconds)
        self._wait("queue", "a place among the requests that are worked on").labels(self._model, capability).observe(seconds)

    def batched(self, capability: str, seconds: float) -> None:
        """Notes how long an item of a request waited for its batch to be computed."""
        self._wait("batch", "a batch to be computed in").labels(self._model, capability).observe(seconds)

    def computed(self, capability: str, items: int, tokens: int) -> None:
        """Notes a batch of texts, and of their tokens without padding. ``capability`` is that of the request that began it."""
        labels = ("model_name", "capability")
        for name, text, value in (("items", "Texts", items), ("tokens", "Tokens", tokens)):
            histogram = self._exposition.histogram(f"batch_{name}", f"{text} of a batch that was computed at once.", _TOKENS, labels)
            histogram.labels(self._model, capability).observe(value)

    def cached(self, hits: int, misses: int) -> None:
        """Counts texts that were found among the embeddings kept, and those that were not."""
        for name, text, value in (("hits", "found in", hits), ("misses", "not in", misses)):
            counter = self._exposition.counter(f"embedding_cache_{name}", f"Texts {text} the cache of embeddings.")
            counter.labels(self._model).inc(value)

    def heard(self, seconds: float) -> None:
        """Counts the seconds of a recording."""
        self._exposition.counter("audio_seconds", "Seconds of audio that were taken in.").labels(self._model).inc(seconds)

    def _wait(self, kind: str, what: str) -> Histogram:
        labels = ("model_name", "capability")
        return self._exposition.histogram(f"capability_{kind}_wait_seconds", f"Time of waiting for {what} in seconds.", _WAIT, labels)


class Stopwatch:
    """Observes one sequence: its wait, its tokens and its end. Times are monotonic seconds.

    ``capability`` is what the request asks for; the family's name where it is not known. ``generated`` are its tokens so far.
    """

    def __init__(self, metrics: Metrics, prompt_tokens: int, capability: str = ""):
        self._metrics = metrics
        self._prompt_tokens = prompt_tokens
        self._observed = observed()
        self._capability = self._observed.capability or capability
        self._arrived = time.monotonic()
        self._begun: float | None = None
        self._first: float | None = None
        self._last = self._arrived
        self._computed: int | None = None
        self.generated = 0
        self._reason: str | None = None

    def begun(self) -> None:
        """Its turn has come."""
        self._begun = time.monotonic()
        self._metrics.queued(self._capability, self._begun - self._arrived)
        self._metrics.prompt_tokens.inc(self._prompt_tokens)
        self._observed.prompt_tokens += self._prompt_tokens

    def read(self, cached: int) -> None:
        """The prompt is in the KV cache, which had ``cached`` tokens of it before. What is said after the first time does not count."""
        if self._computed is None:
            self._computed = self._prompt_tokens - cached

    def tokens(self, count: int) -> None:
        """``count`` tokens came, at least one."""
        now = time.monotonic()
        if self._first is None:
            self._first = now
            self._metrics.first_token.observe(now - self._arrived)
            self._observed.first_token = self._observed.first_token or now - self._arrived
        else:
            self._metrics.between.observe((now - self._last) / count)
        self._last = now
        self.generated += count
        self._metrics.generation_tokens.inc(count)
        self._observed.completion_tokens += count

    def finished(self, reason: str) -> None:
        """It is complete: stop or length."""
        self._reason = reason
        self._observed.finish_reasons.add(reason)
        now = time.monotonic()
        self._metrics.request.observe(now - self._arrived)
        self._metrics.finished(reason)
        if self._begun is not None:
            self._metrics.inference.observe(now - self._begun)
            self._metrics.request_prompt.observe(self._prompt_tokens)
            if self._computed is not None:
                self._metrics.request_computed.observe(self._computed)
            self._generation(self._begun)

    def ended(self) -> None:
        """Nothing more comes. What was not finished was aborted."""
        if self._reason is None:
            self.finished("abort")

    def _generation(self, begun: float) -> None:
        if self._first is None:
            return
        metrics, decode = self._metrics, self._last - self._first
        metrics.prefill.observe(self._first - begun)
        metrics.decode.observe(decode)
        metrics.request_generation.observe(self.generated)
        if self.generated > 1:
            metrics.per_token.observe(decode / (self.generated - 1))


class _Plain(Collector):
    """A registry's metrics of models under vLLM's own names, with the label of the engine's number that its dashboards select by."""

    def __init__(self, registry: CollectorRegistry):
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for metric in self._registry.collect():
            name = metric.name.removeprefix(PREFIX)
            if name in VLLM_NAMES:
                plain = Metric(_PLAIN + name, metric.documentation, metric.type)
                plain.samples = [_as_vllm(sample) for sample in metric.samples]
                yield plain


def _as_vllm(sample: Sample) -> Sample:
    return sample._replace(name=_PLAIN + sample.name.removeprefix(PREFIX), labels={**sample.labels, "engine": "0"})
