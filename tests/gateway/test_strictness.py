"""Bad input and slow clients: an OpenAI-shaped refusal within the bound, and the next client is served."""

import asyncio
import json

import pytest

CHAT = {"model": "assistant", "messages": []}
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\n"

SMUGGLED = {
    "both framings": HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /v1/models HTTP/1.1\r\nhost: a\r\n\r\n",
    "both framings, other order": HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "lengths in a list": HEAD + b"Content-Length: 2, 2\r\n\r\n{}",
    "signed length": HEAD + b"Content-Length: +2\r\n\r\n{}",
    "space before the colon": HEAD + b"Content-Length : 2\r\n\r\n{}",
    "folded line": HEAD + b"X-A: b\r\n c\r\n\r\n",
    "bare line feeds": b"POST /v1/x HTTP/1.1\nhost: a\n\n",
    "bare carriage return": HEAD + b"X-A: b\rc\r\n\r\n",
    "NUL": HEAD + b"X-A: b\0c\r\n\r\n",
    "unknown coding": HEAD + b"Transfer-Encoding: xchunked\r\n\r\n",
    "two codings": HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked twice": HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked in HTTP/1.0": b"POST /v1/x HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "negative chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n",
    "huge chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
    "no host": b"POST /v1/x HTTP/1.1\r\ncontent-length: 0\r\n\r\n",
    "two hosts": HEAD + b"Host: b\r\ncontent-length: 0\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "unknown version": b"GET /v1/models HTTP/1.9\r\nhost: a\r\n\r\n",
    "CONNECT": b"CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
    "unknown expectation": HEAD + b"Expect: tea\r\ncontent-length: 0\r\n\r\n",
}


@pytest.mark.parametrize("attack", SMUGGLED.values(), ids=SMUGGLED.keys())
async def test_doubtful_requests_are_refused_once_and_the_connection_closed(gateway, replica, connect, attack):
    one = await replica()
    setup = await gateway(one)
    client = await connect(setup)
    await client.send(attack)
    reply = await client.reply()
    assert (reply.status, reply.error["type"], reply.headers["connection"]) == (400, "invalid_request_error", "close")
    assert await client.ended() == b""
    assert one.seen == []
    assert (await (await connect(setup)).ask(CHAT)).status == 200


async def test_a_wish_for_another_protocol_is_ignored(gateway, replica, connect):
    one = await replica()
    client = await connect(await gateway(one))
    wish = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n"
    reply = await client.ask(CHAT, headers=wish)
    assert reply.status == 200
    assert (await client.ask(CHAT)).status == 200
    for seen in one.seen:
        assert json.loads(seen.body) == CHAT
        assert not {"upgrade", "http2-settings", "connection"} & seen.headers.keys()


BODIES = {
    "empty": (b"", 400, None),
    "not JSON": (b"{nope", 400, None),
    "cut": (b'{"model": "assistant"', 400, None),
    "not UTF-8": (b'{"model": "\xff"}', 400, None),
    "a list": (b"[]", 400, None),
    "a string": (b'"assistant"', 400, None),
    "deep": (b"[" * 100_000, 400, None),
    "no model": (b"{}", 400, "model"),
    "null model": (b'{"model": null}', 400, "model"),
    "number as model": (b'{"model": 1}', 400, "model"),
    "list as model": (b'{"model": ["assistant"]}', 400, "model"),
    "empty model": (b'{"model": ""}', 400, "model"),
    "unknown model": (b'{"model": "nope"}', 404, "model"),
    "long unknown model": (json.dumps({"model": "x" * 200_000}).encode(), 404, "model"),
    "big, number as model": (json.dumps({"messages": "x" * 300_000, "model": 1}).encode(), 400, "model"),
    "big, no model": (
        json.dumps({"messages": ["model", "assistant"], "x": {"model": "assistant"}, "y": "x" * 300_000}).encode(),
        400,
        "model",
    ),
    "big, a list": (json.dumps(["x" * 300_000]).encode(), 400, None),
    "multipart": (b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nassistant\r\n--x--\r\n', 400, None),
}


@pytest.mark.parametrize("case", BODIES.values(), ids=BODIES.keys())
async def test_bad_bodies(gateway, replica, connect, case):
    body, status, param = case
    client = await connect(await gateway(await replica()))
    reply = await client.ask(body)
    assert (reply.status, reply.error["param"]) == (status, param)
    assert len(reply.body) < 2000
    assert (await client.ask(CHAT)).status == 200


@pytest.mark.parametrize(
    "case",
    [
        ("GET /v1/chat/completions", 405, "method_not_allowed"),
        ("DELETE /v1/models/assistant", 405, "method_not_allowed"),
        ("POST /v1/models", 405, "method_not_allowed"),
        ("OPTIONS /v1/chat/completions", 405, "method_not_allowed"),
        ("GET /v1/nope", 404, "unknown_url"),
        ("GET /nope", 404, "unknown_url"),
        ("GET /v1", 404, "unknown_url"),
        ("GET /v1/modelsx", 404, "unknown_url"),
        ("POST /", 405, "method_not_allowed"),
        ("GET /v2/rerank", 405, "method_not_allowed"),
        ("GET /tokenize", 405, "method_not_allowed"),
        ("POST /v1/nope", 404, "unknown_url"),
        ("POST /v1/chat/completions/", 404, "unknown_url"),
        ("POST /v2/nope", 404, "unknown_url"),
        ("POST /chat/completions", 404, "unknown_url"),
        ("POST /v1/../health", 404, "unknown_url"),
        ("POST http://a/v1/chat/completions", 404, "unknown_url"),
        ("GET /v1/models/..%2F..%2F%ff%00", 404, "model_not_found"),
    ],
)
async def test_wrong_method_or_path(gateway, replica, connect, case):
    line, status, code = case
    client = await connect(await gateway(await replica()))
    await client.send(f"{line} HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n".encode())
    reply = await client.reply()
    assert (reply.status, reply.error["code"]) == (status, code)
    assert (await client.ask(CHAT)).status == 200


async def test_100_megabytes_announced_are_refused_before_they_come(gateway, replica, connect):
    setup = await gateway(await replica())
    client = await connect(setup)
    await client.send(HEAD + b"content-length: 104857600\r\nexpect: 100-continue\r\n\r\n")
    reply = await client.reply()
    assert (reply.status, reply.error["code"]) == (413, "request_too_large")
    assert (await (await connect(setup)).ask(CHAT)).status == 200


async def test_100_megabytes_sent_anyway_are_refused_readably(gateway, replica, connect):
    setup = await gateway(await replica())
    client = await connect(setup)

    async def send():
        await client.send(HEAD + b"content-length: 104857600\r\n\r\n")
        for _ in range(100):
            await client.send(bytes(1 << 20))

    sending = asyncio.ensure_future(send())
    assert (await client.reply()).status == 413
    await asyncio.gather(sending, return_exceptions=True)
    assert setup.gateway._service.stats.buffered_bytes == 0


async def test_chunks_are_bounded_while_they_come(gateway, replica, connect):
    setup = await gateway(await replica(), max_body_bytes=10_000)
    client = await connect(setup)
    await client.send(HEAD + b"transfer-encoding: chunked\r\n\r\n" + (b"3e8\r\n" + bytes(1000) + b"\r\n") * 11)
    assert (await client.reply()).status == 413


async def test_all_bodies_together_are_bounded(gateway, replica, connect, until):
    setup = await gateway(await replica(), max_buffered_bytes=20_000)
    first, second = await connect(setup), await connect(setup)
    body = json.dumps(CHAT | {"x": "y" * 15_000}).encode()
    await first.send(HEAD + b"content-length: %d\r\n\r\n" % len(body) + body[:-1])
    await until(lambda: setup.gateway._service.stats.buffered_bytes > 10_000)
    reply = await second.ask(body)
    assert (reply.status, reply.error["code"], reply.headers["retry-after"]) == (503, "overloaded", "1")
    await first.send(body[-1:])
    assert (await first.reply()).status == 200
    assert setup.gateway._service.stats.buffered_bytes == 0


@pytest.mark.parametrize("pieces", [1, 50])
async def test_huge_heads(gateway, replica, connect, pieces):
    setup = await gateway(await replica())
    client = await connect(setup)
    for number in range(pieces):
        head = HEAD if number == 0 else b""
        await client.send(head + b"X-%d: %b\r\n" % (number, b"a" * (100_000 // pieces)))
    reply = await client.reply()
    assert (reply.status, reply.error["code"]) == (431, "headers_too_large")
    assert (await (await connect(setup)).ask(CHAT)).status == 200


async def test_a_slow_head_times_out(gateway, connect):
    client = await connect(await gateway(header_timeout="200ms"))
    await client.send(HEAD)
    reply = await client.reply()
    assert (reply.status, reply.error["code"]) == (408, "request_timeout")
    assert await client.ended() == b""


async def test_dripping_does_not_help_a_slow_head(gateway, connect):
    client = await connect(await gateway(header_timeout="300ms"))
    await client.send(HEAD + b"X: ")
    answer = asyncio.ensure_future(client.reply())
    while not answer.done():
        client.writer.write(b"a")
        await asyncio.wait((answer,), timeout=0.02)
    assert answer.result().status == 408


async def test_a_half_sent_body_times_out(gateway, replica, connect):
    setup = await gateway(await replica(), body_timeout="200ms")
    client = await connect(setup)
    await client.send(HEAD + b'content-length: 100\r\n\r\n{"model"')
    assert (await client.reply()).status == 408
    assert setup.gateway._service.stats.buffered_bytes == 0


async def test_an_idle_connection_is_closed(gateway, replica, connect):
    client = await connect(await gateway(await replica(), idle_timeout="200ms"))
    assert (await client.ask(CHAT)).status == 200
    assert await client.ended() == b""


async def test_a_client_that_leaves_in_the_middle_of_its_request_leaves_nothing(gateway, replica, connect, until):
    one = await replica()
    setup = await gateway(one)
    client = await connect(setup)
    await client.send(HEAD + b'content-length: 100\r\n\r\n{"model"')
    await until(lambda: setup.gateway._service.stats.buffered_bytes > 0)
    client.leave()
    await until(lambda: setup.gateway.connections == 0)
    assert setup.gateway._service.stats.buffered_bytes == 0
    assert one.seen == []


async def test_too_many_connections(gateway, replica, connect, until):
    setup = await gateway(await replica(), max_connections=1)
    first, second = await connect(setup), await connect(setup)
    reply = await second.reply()
    assert (reply.status, reply.error["code"]) == (503, "overloaded")
    assert await second.ended() == b""
    assert (await first.ask(CHAT)).status == 200
