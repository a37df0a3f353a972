"""Spans of requests for an OpenTelemetry collector; nothing is imported and nothing is spent where no collector is named.

A span is made when its request has ended, by what was observed of it; the context that the client sent in ``traceparent`` is its parent.
Attributes: https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/ and …/http/http-spans/.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from modelyard import __version__

from modelyard_runtime.errors import ArgumentsInvalid
from modelyard_runtime.observation import Ended
from modelyard_runtime.settings import ServeSettings

_QUIET = frozenset({"/health", "/ready", "/metrics", "/progress"})
_OPERATIONS = {"chat": "chat", "completions": "text_completion", "embeddings": "embeddings"}
_PATH = "/v1/traces"


@dataclass(frozen=True, slots=True)
class Tracing:
    """``record`` takes a request that has ended; ``close`` sends what is left and takes some seconds where nobody answers."""

    record: Callable[[Ended], None]
    close: Callable[[], None]


def open_tracing(settings: ServeSettings) -> Tracing | None:
    """Returns what sends spans, or None where no collector is named. Raises ArgumentsInvalid when its packages are missing."""
    if settings.otlp_endpoint is None:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError as error:
        raise ArgumentsInvalid(f"--otlp-endpoint: a package is missing: {error}", "pip install 'modelyard[otel]'") from error
    resource = Resource.create({"service.name": "modelyard-runtime", "service.version": __version__})
    # What is left at the end is sent by `close`, which the server calls; the interpreter's own end would wait once more.
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=_endpoint(settings.otlp_endpoint))))
    return Tracing(_recorder(provider.get_tracer("modelyard", __version__)), provider.shutdown)


def _endpoint(given: str) -> str:
    return given if given.endswith(_PATH) else given.rstrip("/") + _PATH


def _recorder(tracer: Any) -> Callable[[Ended], None]:
    from opentelemetry.trace import SpanKind, StatusCode  # noqa: PLC0415
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

    propagator = TraceContextTextMapPropagator()

    def record(ended: Ended) -> None:
        if ended.scope["path"] in _QUIET:
            return
        context = propagator.extract({name: ended.header(name.encode()) for name in ("traceparent", "tracestate")})
        span = tracer.start_span(_name(ended), context, SpanKind.SERVER, _attributes(ended), start_time=ended.began)
        if ended.status >= 500:
            span.set_status(StatusCode.ERROR)
        span.end(ended.began + int(ended.seconds * 1e9))

    return record


def _name(ended: Ended) -> str:
    seen = ended.observation
    operation = _OPERATIONS.get(seen.capability, seen.capability)
    return f"{operation} {seen.model}" if operation else f"{ended.scope['method']} {ended.route}".rstrip()


def _attributes(ended: Ended) -> dict[str, Any]:
    seen, scope = ended.observation, ended.scope
    http = {
        "http.request.method": scope["method"],
        "http.response.status_code": ended.status,
        "http.route": ended.route,
        "url.path": scope["path"][:200],
        "modelyard.request_id": seen.request_id,
    }
    if ended.status >= 500:
        http["error.type"] = str(ended.status)
    return http | _model_attributes(ended) if seen.capability else http


def _model_attributes(ended: Ended) -> dict[str, Any]:
    seen = ended.observation
    attributes: dict[str, Any] = {
        "gen_ai.operation.name": _OPERATIONS.get(seen.capability, seen.capability),
        "gen_ai.provider.name": "modelyard",
        "gen_ai.request.model": seen.model,
        "gen_ai.response.model": seen.model,
        "gen_ai.usage.input_tokens": seen.prompt_tokens,
    }
    if seen.first_token is not None:
        attributes |= {
            "gen_ai.usage.output_tokens": seen.completion_tokens,
            "gen_ai.server.time_to_first_token": seen.first_token,
            "gen_ai.response.finish_reasons": sorted(seen.finish_reasons),
        }
    return attributes
