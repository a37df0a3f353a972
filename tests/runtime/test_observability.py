"""What others see of the work: metrics under both names, log lines, spans, and the id of each request everywhere."""

import http.server
import json
import logging
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from modelyard_runtime.engine.base import GenerationRequest, SamplingParams
from modelyard_runtime.engine.sequence import Sequence
from modelyard_runtime.loads import Load
from modelyard_runtime.logs import RequestFormatter, request_id
from modelyard_runtime.metrics import VLLM_NAMES, Exposition, Metrics
from modelyard_runtime.serving.threads import on_thread
from modelyard_runtime.serving.workers import Workers
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from .conftest import Running, running, wait_until

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"
CHAT: dict[str, Any] = {"model": "tiny-chat", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def types(server: Running) -> dict[str, str]:
    """Returns the metrics that a server shows, by name."""
    text = httpx.get(f"{server.private_url}/metrics").text
    return dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))


def documented() -> set[str]:
    """Returns the names of the runtime's metrics in the documentation."""
    runtime = DOCS.read_text().split("## Runtime")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in runtime.splitlines() if line.startswith("| `")]
    return {name.split("{")[0] for row in rows for name in re.findall(r"`([^`]+)`", row)}


def test_the_documentation_names_every_metric(chat: Running, embed: Running) -> None:
    chat.openai().chat.completions.create(**CHAT)
    embed.openai().embeddings.create(model="tiny-embed", input="Hello")
    shown = set(types(chat)) | set(types(embed))
    assert documented() - shown == {"modelyard_audio_seconds_total"}  # speech to text's, which neither of them serves
    assert shown - documented() == set()


def test_plain_names_are_shown_on_demand(start: Callable[..., Running]) -> None:
    server = start(vllm_metric_names=True)
    server.openai().chat.completions.create(**CHAT)
    shown = types(server)
    plain = {name.removeprefix("vllm:") for name in shown if name.startswith("vllm:")}
    assert {name.removesuffix("_total") for name in plain} == {name.removesuffix("_total") for name in VLLM_NAMES}
    text = httpx.get(f"{server.private_url}/metrics").text
    for line in ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"):
        assert f'{line}{{engine="0",model_name="tiny-chat"}} 0' in text
    assert 'vllm:request_generation_tokens_sum{engine="0",model_name="tiny-chat"} 4.0' in text
    assert 'vllm:request_success_total{engine="0",finished_reason="length",model_name="tiny-chat"} 1.0' in text
    assert 'vllm:iteration_tokens_total_bucket{engine="0",le="1.0",model_name="tiny-chat"} 3.0' in text
    samples = [line for line in text.splitlines() if line.startswith("vllm:")]
    assert all('engine="0"' in sample for sample in samples)
    assert not any('engine="0"' in line for line in text.splitlines() if line.startswith("modelyard_"))
    assert 'le="0.001"' in text


def test_plain_names_are_off_by_default(chat: Running) -> None:
    assert "vllm:" not in httpx.get(f"{chat.private_url}/metrics").text


def test_the_tokens_of_a_request_are_observed(start: Callable[..., Running]) -> None:
    server = start()
    prompt = [7] * 80

    def ask(**more: Any) -> None:
        server.openai().completions.create(model="tiny-chat", prompt=prompt, **more)

    ask(max_tokens=3)
    assert server.metric("request_prefill_kv_computed_tokens_sum") == 80
    ask(max_tokens=5, n=2, temperature=0)
    cached = server.metric("prefix_cache_hits_total")
    assert cached > 0
    assert server.metric("request_prefill_kv_computed_tokens_count") == 3
    assert server.metric("request_prefill_kv_computed_tokens_sum") == 3 * 80 - cached
    longest = [server.metric(f"request_max_num_generation_tokens_{part}") for part in ("count", "sum")]
    assert longest[0] == 2, "one for the two answers of a request"
    assert longest[1] <= server.metric("generation_tokens_total") < 2 * longest[1]
    assert server.metric("iteration_tokens_total_sum") == 3 * 80 - cached + server.metric("generation_tokens_total")
    assert server.metric("iteration_tokens_total_count") == server.metric("engine_steps_total")
    server.openai().completions.create(model="tiny-chat", prompt=["a", "b", "c"], max_tokens=2, n=2)
    asked = {name: server.metric(f"request_{name}") for name in ("params_n_count", "params_n_sum", "max_num_generation_tokens_count")}
    assert asked == {"params_n_count": 5, "params_n_sum": 1 + 2 + 3 * 2, "max_num_generation_tokens_count": 5}, "each prompt counts"


def test_requests_are_counted_by_route_and_status(chat: Running) -> None:
    def count(path: str, status: int, method: str = "POST") -> float:
        return chat.metric("http_requests_total", method=method, path=path, status=str(status))

    before = {path: count(path, 200) for path in ("/v1/chat/completions",)}
    bad = count("/v1/chat/completions", 400)
    missing = count("", 404, "GET")
    listed = count("/v1/models/{name:path}", 404, "GET")
    httpx.post(f"{chat.url}/v1/chat/completions", json=CHAT)
    httpx.post(f"{chat.url}/v1/chat/completions", json={})
    for number in range(3):
        httpx.get(f"{chat.url}/not-here/{number}")
        httpx.get(f"{chat.url}/v1/models/other-{number}")
    assert count("/v1/chat/completions", 200) == before["/v1/chat/completions"] + 1
    assert count("/v1/chat/completions", 400) == bad + 1
    assert count("", 404, "GET") == missing + 3
    assert count("/v1/models/{name:path}", 404, "GET") == listed + 3


def test_requests_that_end_before_they_come_to_a_route_are_counted_by_it_too(chat: Running) -> None:
    def count(path: str, status: int) -> float:
        return chat.metric("http_requests_total", method="POST", path=path, status=str(status))

    left, large = count("/v1/chat/completions", 499), count("/api/chat", 413)
    with socket.create_connection(("127.0.0.1", chat.port)) as client:
        client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
    assert httpx.post(f"{chat.url}/api/chat", content=b" " * (33 << 20)).status_code == 413
    wait_until(lambda: count("/v1/chat/completions", 499) == left + 1, "it is counted")
    assert count("/api/chat", 413) == large + 1
    assert count("", 499) == 0


def test_a_waiting_request_is_observed_by_capability(chat: Running) -> None:
    chat.openai().chat.completions.create(**CHAT)
    chat.openai().completions.create(model="tiny-chat", prompt="Hello", max_tokens=2)
    for capability in ("chat", "completions"):
        assert chat.metric("capability_queue_wait_seconds_count", capability=capability) >= 1


def test_a_model_that_goes_takes_its_series_along() -> None:
    exposition = Exposition(plain=True)
    for name in ("one", "two"):
        metrics = Metrics(exposition, name, lambda: Load(running=1))
        metrics.finished("stop")
        metrics.queued("chat", 0.1)
    exposition.forget("one")
    text = exposition.render().decode()
    assert 'model_name="one"' not in text
    assert 'modelyard_request_success_total{finished_reason="stop",model_name="two"} 1.0' in text
    assert 'vllm:num_requests_running{engine="0",model_name="two"} 1.0' in text


def test_the_log_says_what_a_request_was(chat: Running, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "modelyard_runtime"):
        httpx.post(f"{chat.url}/v1/chat/completions", json=CHAT, headers={"x-request-id": "mine", "authorization": "Bearer secret"})
        # The line is written once the answer has gone out, which the client may see first.
        wait_until(lambda: any(record.getMessage() == "request" for record in caplog.records), "the line")
    line = next(record for record in caplog.records if record.getMessage() == "request")
    said: dict[str, Any] = vars(line)
    assert (said["model"], said["capability"], said["completionTokens"], said["status"]) == ("tiny-chat", "chat", 4, 200)
    assert said["promptTokens"] > 0
    assert said["firstTokenSeconds"] > 0
    assert "secret" not in str(said)


def test_lines_of_other_threads_have_the_request_s_id_too(start: Callable[..., Running]) -> None:
    """Those of the thread that loads a model for a request, for one."""
    server = start(lazy=True)
    lines: list[dict[str, Any]] = []
    with written(lines):
        httpx.post(f"{server.url}/v1/chat/completions", json=CHAT, headers={"x-request-id": "mine"}, timeout=60)
        wait_until(lambda: any(line["message"] == "request" for line in lines), "the line")
    assert any(line["logger"] == "modelyard_runtime.models.loading" for line in lines)
    assert {line.get("requestId") for line in lines} == {"mine"}


@contextmanager
def written(lines: list[dict[str, Any]]) -> Iterator[None]:
    """Notes the lines that are written meanwhile, as they would be written to stderr."""

    class Notes(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(json.loads(self.format(record)))

    handler, logger = Notes(), logging.getLogger("modelyard_runtime")
    handler.setFormatter(RequestFormatter())
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


async def test_threads_work_for_the_request_that_asks_them() -> None:
    workers = Workers("test", 1, waiting=1, timeout=10)
    for name in ("one", "two"):
        request_id.set(name)
        assert await workers.run(request_id.get) == name
        assert await on_thread(request_id.get) == name
        assert Sequence.of(GenerationRequest(name, [1], SamplingParams())).context[request_id] == name
    workers.close()


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"NONSENSE\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: x\r\nx-a: " + b"a" * 200_000, 431),
        (b"GET /not-here HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", 404),
        (b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999\r\nexpect: 100-continue\r\n\r\n", 413),
    ],
)
def test_every_answer_has_an_id(chat: Running, head: bytes, status: int) -> None:
    with socket.create_connection(("127.0.0.1", chat.port), timeout=10) as client:
        client.sendall(head)
        answer = client.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert re.search(rb"\r\nx-request-id: req-[0-9a-f]{32}\r\n", answer)


@contextmanager
def collector() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    """An OpenTelemetry collector that keeps what it gets."""
    received: list[ExportTraceServiceRequest] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            assert self.path == "/v1/traces"
            received.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", received
        finally:
            server.shutdown()
            thread.join()


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    return [_value(one) for one in value.array_value.values] if kind == "array_value" else getattr(value, kind)


def test_spans_reach_a_collector(settings: Callable[..., Any]) -> None:
    with collector() as (endpoint, received), running(settings("builtin://tiny-chat", otlp_endpoint=endpoint)) as server:
        httpx.post(f"{server.url}/v1/chat/completions", json=CHAT, headers={"traceparent": PARENT, "x-request-id": "mine"})
        httpx.post(f"{server.url}/v1/chat/completions", json={**CHAT, "model": "other"}, headers={"traceparent": "garbage"})
        httpx.get(f"{server.url}/health")
        server.told(2)
        server.join()
    spans = [span for request in received for resource in request.resource_spans for scope in resource.scope_spans for span in scope.spans]
    assert [span.name for span in spans] == ["chat tiny-chat", "POST /v1/chat/completions"]
    served, refused = spans
    assert (served.trace_id.hex(), served.parent_span_id.hex()) == (PARENT.split("-")[1], PARENT.split("-")[2])
    assert not refused.parent_span_id
    attributes = {attribute.key: _value(attribute.value) for attribute in served.attributes}
    assert attributes["gen_ai.operation.name"] == "chat"
    assert attributes["gen_ai.request.model"] == "tiny-chat"
    assert attributes["gen_ai.usage.output_tokens"] == 4
    assert attributes["gen_ai.usage.input_tokens"] > 0
    assert attributes["gen_ai.response.finish_reasons"] == ["length"]
    assert 0 < attributes["gen_ai.server.time_to_first_token"] <= (served.end_time_unix_nano - served.start_time_unix_nano) / 1e9
    assert (attributes["http.response.status_code"], attributes["modelyard.request_id"]) == (200, "mine")
    assert "gen_ai.request.model" not in {attribute.key for attribute in refused.attributes}


def test_tracing_costs_nothing_when_it_is_off() -> None:
    code = "import sys, modelyard_runtime.serving.server; print([name for name in sys.modules if name.startswith('opentelemetry.sdk')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
