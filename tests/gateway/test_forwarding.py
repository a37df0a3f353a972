import asyncio
import json

import pytest

CHAT = {"model": "assistant", "messages": [{"role": "user", "content": "hi"}]}


async def test_request_and_answer_pass_byte_for_byte(gateway, replica, connect):
    one = await replica({"answer": "ä"})
    setup = await gateway(one, model={"aliases": ("gpt-4o-mini",)})
    client = await connect(setup)
    body = b'{ "model":"gpt-4o-mini",\n "x" : 1.50 }'
    reply = await client.ask(body, "/v1/chat/completions?a=%20b", "x-request-id: abc-1\r\nX-Custom: Yes\r\n")
    assert (reply.status, reply.json()) == (200, {"answer": "ä"})
    assert reply.headers["x-request-id"] == "abc-1"
    seen = one.seen[0]
    assert (seen.method, seen.target, seen.body) == ("POST", "/v1/chat/completions?a=%20b", body)
    assert seen.headers["x-request-id"] == "abc-1"
    assert seen.headers["x-modelyard-model"] == "assistant"
    assert b"X-Custom: Yes\r\n" in seen.raw_head


async def test_what_belongs_to_one_hop_ends_at_the_gateway(gateway, replica, connect):
    one = await replica()
    client = await connect(await gateway(one))
    headers = (
        "Authorization: Bearer secret\r\nCookie: a=b\r\nProxy-Authorization: x\r\nTE: trailers\r\nConnection: keep-alive, X-Hop\r\n"
        "X-Hop: 1\r\nKeep-Alive: 5\r\nX-Modelyard-Model: other\r\nX-Modelyard-Usage: stream\r\nx-request-id: bad id!\r\n"
    )
    reply = await client.ask(CHAT, headers=headers)
    assert reply.status == 200
    assert reply.headers["x-request-id"].startswith("req-")
    seen = one.seen[0]
    assert set(seen.headers) == {"host", "content-length", "content-type", "x-request-id", "x-modelyard-model"}
    assert seen.headers["x-request-id"] == reply.headers["x-request-id"]
    assert seen.headers["x-modelyard-model"] == "assistant"
    assert seen.headers["host"] == f"127.0.0.1:{one.endpoint.port}"


async def test_answers_lose_their_hop_by_hop_fields(gateway, replica, connect):
    async def behave(_seen, writer):
        writer.write(
            b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\nX-Own: 1\r\n"
            b"X-Request-Id: other\r\nContent-Length: 2\r\n\r\nok"
        )

    client = await connect(await gateway(await replica(behave)))
    reply = await client.ask(CHAT, headers="x-request-id: mine\r\n")
    assert set(reply.headers) == {"x-own", "content-length", "x-request-id"}
    assert reply.headers["x-request-id"] == "mine"


async def test_connections_are_kept_on_both_legs(gateway, replica, connect):
    one = await replica()
    client = await connect(await gateway(one))
    for _ in range(5):
        assert (await client.ask(CHAT)).status == 200
    assert (one.connections, len(one.seen)) == (1, 5)


async def test_chunked_request(gateway, replica, connect):
    one = await replica()
    client = await connect(await gateway(one))
    body = json.dumps(CHAT).encode()
    await client.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
    for start in range(0, len(body), 7):
        piece = body[start : start + 7]
        await client.send(b"%x\r\n%b\r\n" % (len(piece), piece))
    await client.send(b"0\r\nX-Trailer: dropped\r\n\r\n")
    assert (await client.reply()).status == 200
    assert one.seen[0].body == body
    assert "x-trailer" not in one.seen[0].headers
    assert (await client.ask(CHAT)).status == 200


@pytest.mark.parametrize("framing", ["chunked", "close"])
async def test_answers_of_unknown_length(gateway, replica, connect, framing):
    async def behave(_seen, writer):
        if framing == "chunked":
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n")
        else:
            writer.write(b"HTTP/1.1 200 OK\r\n\r\nhello world")
            await writer.drain()
            writer.close()

    client = await connect(await gateway(await replica(behave)))
    reply = await client.ask(CHAT)
    assert (reply.body, reply.complete, reply.headers["transfer-encoding"]) == (b"hello world", True, "chunked")
    assert (await client.ask(CHAT)).body == b"hello world"


async def test_events_arrive_one_by_one(gateway, replica, connect):
    step = asyncio.Event()

    async def behave(_seen, writer):
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for number in range(3):
            event = b"data: %d\n\n" % number
            writer.write(b"%x\r\n%b\r\n" % (len(event), event))
            await step.wait()
            step.clear()
        writer.write(b"0\r\n\r\n")

    client = await connect(await gateway(await replica(behave)))
    await client.post(CHAT | {"stream": True})
    status, headers = await client.head()
    assert (status, headers["content-type"]) == (200, "text/event-stream")
    for number in range(3):
        assert await client.chunk() == b"data: %d\n\n" % number
        step.set()
    assert await client.chunk() == b""


async def test_http_1_0_gets_no_chunks(gateway, replica, connect):
    async def behave(_seen, writer):
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")

    client = await connect(await gateway(await replica(behave)))
    body = json.dumps(CHAT).encode()
    await client.send(b"POST /v1/chat/completions HTTP/1.0\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
    reply = await client.reply()
    assert (reply.body, reply.headers["connection"]) == (b"hello", "close")
    assert "transfer-encoding" not in reply.headers


async def test_expect_continue(gateway, replica, connect):
    client = await connect(await gateway(await replica()))
    body = json.dumps(CHAT).encode()
    await client.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: %d\r\n\r\n" % len(body))
    assert (await client.reply()).status == 100
    await client.send(body)
    assert (await client.reply()).status == 200


async def test_pipelined_requests_are_answered_in_order(gateway, replica, connect):
    async def behave(seen, writer):
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(seen.body), seen.body))

    client = await connect(await gateway(await replica(behave)))
    bodies = [json.dumps({"model": "assistant", "n": number}).encode() for number in range(20)]
    await client.send(b"".join(b"POST /score HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body) for body in bodies))
    assert [(await client.reply()).body for _ in bodies] == bodies


async def test_an_answer_of_many_megabytes(gateway, replica, connect):
    body = bytes(range(256)) * 40_000

    async def behave(_seen, writer):
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body))
        writer.write(body)
        await writer.drain()

    client = await connect(await gateway(await replica(behave)))
    assert (await client.ask(CHAT)).body == body


async def test_a_big_request_is_routed_without_being_parsed(gateway, replica, connect):
    one = await replica()
    client = await connect(await gateway(one))
    body = json.dumps({"messages": ['{"model": "x"}' * 100_000], "model": "assistant"}).encode()
    assert (await client.ask(body)).status == 200
    assert one.seen[0].body == body


async def test_debug_header_names_the_replica(gateway, replica, connect):
    one = await replica()
    client = await connect(await gateway(one, debug_headers=True))
    assert (await client.ask(CHAT)).headers["x-modelyard-endpoint"] == f"127.0.0.1:{one.endpoint.port}"


async def test_models(gateway, connect):
    setup = await gateway(model={"aliases": ("gpt-4o-mini",), "created": "2026-01-01T00:00:00Z", "capabilities": ("chat",)})
    client = await connect(setup)
    await client.send(b"GET /v1/models HTTP/1.1\r\nhost: a\r\n\r\n")
    reply = await client.reply()
    assert [(entry["id"], entry["root"], entry["owned_by"], entry["created"]) for entry in reply.json()["data"]] == [
        ("assistant", "assistant", "default", 1767225600),
        ("gpt-4o-mini", "assistant", "default", 1767225600),
    ]
    for name in ("assistant", "default/assistant", "default%2Fassistant", "gpt-4o-mini"):
        await client.send(f"GET /v1/models/{name} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
        assert (await client.reply()).json()["root"] == "assistant"
    await client.send(b"GET /v1/models/nope HTTP/1.1\r\nhost: a\r\n\r\n")
    assert (await client.reply()).error["code"] == "model_not_found"


async def test_head_has_no_body(gateway, connect):
    client = await connect(await gateway())
    await client.send(b"HEAD /v1/models HTTP/1.1\r\nhost: a\r\n\r\n")
    reply = await client.reply(bodiless=True)
    assert (reply.status, int(reply.headers["content-length"]) > 0) == (200, True)
    await client.send(b"GET /v1/models HTTP/1.1\r\nhost: a\r\n\r\n")
    assert (await client.reply()).status == 200
