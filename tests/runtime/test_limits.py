"""Bounds under load, with real requests: queue full, waits too long, requests too long, clients that leave."""

import asyncio
import json
import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx
import openai
import pytest
from modelyard.api.errors import TooManyRequests, Unavailable
from modelyard_runtime.serving.limiter import Limiter
from modelyard_runtime.serving.server import Server, listen

from .conftest import Running, wait_until

HELLO = [{"role": "user", "content": "Hello"}]
LONG = {"model": "tiny-chat", "messages": HELLO, "max_tokens": 2000, "ignore_eos": True, "temperature": 0, "stream": True}
SHORT = {"model": "tiny-chat", "messages": HELLO, "max_tokens": 2}


@contextmanager
def busy(server: Running) -> Iterator[httpx.Response]:
    """A request that has begun to stream and goes on."""
    with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=LONG, timeout=60) as response:
        assert response.status_code == 200
        yield response


def short(server: Running) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/chat/completions", json=SHORT, timeout=60)


def test_one_more_than_the_queue_holds_is_refused(start):
    server = start(max_concurrency=1, max_queue=0)
    with busy(server):
        refused = short(server)
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert refused.json()["error"]["code"] == "queue_full"
    wait_until(lambda: short(server).status_code == 200, "the slot is free again")


def test_a_request_that_waits_too_long_is_told_so(start):
    server = start(max_concurrency=1, max_queue=4, queue_timeout="200ms")
    with busy(server):
        refused = short(server)
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "queue_timeout"
        assert "0.2 s" in refused.json()["error"]["message"]


def test_a_waiting_request_gets_the_slot_when_it_is_free(start):
    server = start(max_concurrency=1, max_queue=4)
    answers: list[httpx.Response] = []
    with busy(server):
        waiter = threading.Thread(target=lambda: answers.append(short(server)))
        waiter.start()
        wait_until(lambda: server.metric("num_requests_waiting") == 1, "it waits")
    waiter.join(60)
    assert answers[0].status_code == 200
    assert server.metric("num_requests_waiting") == 0


def test_a_request_that_takes_too_long_ends_with_a_timeout(start):
    server = start(request_timeout="500ms")
    late = httpx.post(f"{server.url}/v1/chat/completions", json={**LONG, "stream": False}, timeout=60)
    assert late.status_code == 504
    assert late.json()["error"]["type"] == "timeout_error"
    with busy(server) as response:
        text = response.read().decode()
    assert '"timeout_error"' in text.splitlines()[-2]
    assert "[DONE]" not in text
    wait_until(lambda: server.metric("num_requests_running") == 0, "the engine let go")


def test_work_of_a_client_that_left_is_cancelled(start):
    server = start()
    with busy(server):
        wait_until(lambda: server.metric("num_requests_running") == 1, "it runs")
    wait_until(lambda: server.metric("num_requests_running") == 0, "it was cancelled", seconds=10)
    wait_until(lambda: server.metric("request_success_total", finished_reason="abort") == 1, "it is counted")


def test_all_prompts_of_a_request_take_one_slot_and_end_together(start):
    server = start(max_concurrency=1, max_queue=0)
    body = {"model": "tiny-chat", "prompt": ["Hello"] * 3, "max_tokens": 2000, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=60) as response:
        assert response.status_code == 200
        wait_until(lambda: server.metric("num_requests_running") == 3, "they run")
    wait_until(lambda: server.metric("num_requests_running") == 0, "they were cancelled", seconds=10)
    assert server.metric("request_success_total", finished_reason="abort") == 3


def test_a_client_that_leaves_the_queue_is_never_worked_on(start):
    server = start(max_concurrency=1, max_queue=4)
    with busy(server):
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{server.url}/v1/chat/completions", json=SHORT, timeout=0.5)
        wait_until(lambda: server.metric("num_requests_waiting") == 0, "it left the queue")
    wait_until(lambda: server.metric("num_requests_running") == 0, "all is quiet")
    assert server.metric("request_success_total", finished_reason="length") == 0


def test_the_operator_s_bounds_on_tokens(start):
    server = start(max_prompt_tokens=30, max_new_tokens=4)
    client = server.openai()
    with pytest.raises(openai.BadRequestError, match="30 tokens at most"):
        client.chat.completions.create(model="tiny-chat", messages=[{"role": "user", "content": "Hello " * 40}])
    with pytest.raises(openai.BadRequestError, match="4 new tokens at most"):
        client.chat.completions.create(model="tiny-chat", messages=HELLO, max_tokens=5)
    assert client.chat.completions.create(model="tiny-chat", messages=HELLO, temperature=0).usage.completion_tokens == 4


async def test_slots_go_to_those_who_waited_longest():
    limiter = Limiter(concurrency=1, max_queue=10, queue_timeout=5)
    served: list[int] = []

    async def work(number: int) -> None:
        async with limiter.slot():
            served.append(number)

    async with limiter.slot():
        tasks = [asyncio.create_task(work(number)) for number in range(5)]
        await asyncio.sleep(0)
        tasks[2].cancel()
        await asyncio.sleep(0)
        assert (limiter.working, limiter.waiting) == (1, 4)
    await asyncio.wait(tasks)
    assert served == [0, 1, 3, 4]
    assert (limiter.working, limiter.waiting) == (0, 0)


async def test_a_slot_given_to_a_request_that_is_cancelled_at_that_moment_is_passed_on():
    limiter = Limiter(concurrency=1, max_queue=10, queue_timeout=5)

    async def work() -> None:
        async with limiter.slot():
            await asyncio.sleep(0)

    async with limiter.slot():
        first, second = asyncio.create_task(work()), asyncio.create_task(work())
        await asyncio.sleep(0)
    first.cancel()  # its turn has come, and it has not run since
    await asyncio.wait([first, second])
    assert second.exception() is None
    assert limiter.working == 0


async def test_a_closed_limiter_refuses_new_requests_and_drains_the_others():
    limiter = Limiter(concurrency=1, max_queue=1, queue_timeout=5)
    entered, leave = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        async with limiter.slot():
            entered.set()
            await leave.wait()

    tasks = [asyncio.create_task(work()) for _ in range(2)]
    await entered.wait()
    with pytest.raises(TooManyRequests):
        limiter.check()
    limiter.close()
    with pytest.raises(Unavailable) as refused:
        limiter.check()
    assert refused.value.code == "draining"
    drained = asyncio.create_task(limiter.drained())
    await asyncio.sleep(0)
    assert not drained.done()
    leave.set()
    await drained
    assert all(task.done() for task in tasks)


def test_bodies_of_all_requests_together_are_bounded(start):
    server = start("builtin://tiny-embed", max_body_bytes=300_000, max_buffered_bytes=300_000, max_audio_bytes=1024)
    body = json.dumps({"model": "tiny-embed", "input": "Hello"}).encode()
    whole = body + b" " * (200_000 - len(body))
    head = f"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(whole)}\r\n\r\n".encode()
    sent = {"content": whole, "headers": {"content-type": "application/json"}}
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(head + whole[:-1])
        wait_until(lambda: httpx.post(f"{server.url}/v1/embeddings", **sent).status_code == 503, "the first body is held")
        refused = httpx.post(f"{server.url}/v1/embeddings", **sent)
        assert refused.json()["error"]["code"] == "overloaded"
        assert refused.headers["retry-after"] == "1"
        assert httpx.post(f"{server.url}/v1/embeddings", content=body, headers=sent["headers"]).status_code == 200, "a small one fits"
        client.sendall(whole[-1:])
        assert client.recv(12) == b"HTTP/1.1 200"
    wait_until(lambda: httpx.post(f"{server.url}/v1/embeddings", **sent).status_code == 200, "its memory is given back")


def test_connections_are_bounded_and_probes_answered_beyond(start, caplog):
    server = start(max_connections=8)

    def is_cut_off() -> bool:
        try:
            return httpx.get(f"{server.url}/health").status_code != 200
        except httpx.TransportError:
            return True

    with ExitStack() as connections:
        for client in (connections.enter_context(httpx.Client()) for _ in range(8)):
            wait_until(lambda one=client: "connection" not in one.get(f"{server.url}/health").headers, "it is one of the eight")
        refused = short(server)
        assert (refused.status_code, refused.json()["error"]["code"], refused.headers["retry-after"]) == (503, "overloaded", "1")
        assert refused.headers["connection"] == "close"
        ollama = httpx.post(f"{server.url}/api/chat", content=b"x" * 5_000_000, timeout=60)
        assert (ollama.status_code, ollama.headers["x-modelyard-error-code"]) == (503, "overloaded")
        assert isinstance(ollama.json()["error"], str)
        for path in ("/health", "/ready"):
            probe = httpx.get(f"{server.url}{path}")
            assert (probe.status_code, probe.headers["connection"]) == (200, "close")
        assert client.get(f"{server.url}/v1/models").status_code == 200
        for _ in range(8):
            connections.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        wait_until(is_cut_off, "there are twice as many")
        assert client.get(f"{server.url}/v1/models").status_code == 200
    wait_until(lambda: short(server).status_code == 200, "they have left")
    assert len([line for line in caplog.messages if "as many connections" in line]) == 1


def test_files_bound_the_connections_too():
    script = "import resource as r; from modelyard.process import open_files as o; r.setrlimit(r.RLIMIT_NOFILE, (64, 64)); print(o.most())"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "64\n"


def test_a_client_that_reads_nothing_is_left(start, caplog):
    """Its answer is larger than what the system's buffers take, so that it waits for the client."""
    caplog.set_level(logging.INFO)
    server = start("builtin://tiny-embed", stall_timeout="300ms")
    body = json.dumps({"model": "tiny-embed", "input": ["Hello"] * 2048, "encoding_format": "float"}).encode()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", server.port))
        head = f"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        for _ in range(12):  # pipelined, so that what is unread grows past every buffer
            client.sendall(head.encode() + body)
        wait_until(lambda: "a client that read nothing was left" in caplog.messages, "it is left")
        wait_until(lambda: server.metric("num_requests_running") == 0, "its request ends")
    assert not [record for record in caplog.records if record.levelno > logging.INFO], "what waits behind it is never begun"


def test_a_stream_that_nobody_reads_is_cancelled(start):
    server = start(stall_timeout="300ms")
    body = {"model": "tiny-chat", "prompt": "Hello", "n": 16, "logprobs": 5, "max_tokens": 1900, "ignore_eos": True, "stream": True}
    text = json.dumps(body).encode()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", server.port))
        head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(text)}\r\n\r\n"
        client.sendall(head.encode() + text)
        wait_until(lambda: server.metric("request_success_total", finished_reason="abort") == 16, "it is cancelled")
        wait_until(lambda: server.metric("num_requests_running") == 0, "the engine let go")


@pytest.mark.parametrize("closing", [b"", b"connection: close\r\n"])
async def test_the_rest_of_an_answer_that_nobody_reads_is_dropped(closing):
    """Less than what would stop the application, so that its answer is complete while the connection is not done with it."""

    async def application(_scope, _receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"49152")]})
        await send({"type": "http.response.body", "body": b" " * 49152})

    listener = listen("127.0.0.1", 0, "--port")
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    server = Server(application, listener, 0.2, 100)
    serving = asyncio.create_task(server.run_until_told())
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        client.connect(("127.0.0.1", server.port))
        client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n%b\r\n" % closing)
        async with asyncio.timeout(20):
            while server.server_state.total_requests == 0 or server.server_state.connections:  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.01)
    server.tell(1)
    await serving


async def test_requests_that_are_sent_ahead_wait_outside():
    """As many as come with one read are in memory, not all that the client sends while it waits."""
    waiting = []

    async def application(_scope, receive, send):
        await receive()
        leaving = asyncio.create_task(receive())
        await asyncio.sleep(0)
        waiting.extend(len(connection.pipeline) for connection in server.server_state.connections)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})
        await leaving

    server = Server(application, listen("127.0.0.1", 0, "--port"), 20, 100)
    serving = asyncio.create_task(server.run_until_told())
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    request, count = b"GET / HTTP/1.1\r\nhost: x\r\npadding: %b\r\n\r\n" % (b"x" * 1000), 5000
    writer.write(request * count)
    async with asyncio.timeout(60):
        for _ in range(count):
            await reader.readuntil(b"\r\n\r\n")
    assert max(waiting) < count / 5
    writer.close()
    server.tell(1)
    await serving


def test_drain_and_flush_share_one_deadline(start):
    """A stream that outlasts the drain timeout is cut off with an error then, not after a second wait."""
    server = start(drain_timeout="1s")
    with busy(server) as response:
        lines = response.iter_lines()
        next(lines)
        server.told()
        began = time.monotonic()
        rest = list(lines)
    assert server.join() is None
    assert time.monotonic() - began < 4.5
    assert "data: [DONE]" in rest or '"code":"draining"' in "".join(rest)
