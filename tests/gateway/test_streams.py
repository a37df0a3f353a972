"""Two legs, one fate: whoever leaves or stops ends or slows the other side."""

import asyncio
import json

CHAT = {"model": "assistant", "messages": []}
SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data):
    return b"%x\r\n%b\r\n" % (len(data), data)


async def endless(_seen, writer):
    writer.write(SSE)
    while True:
        writer.write(chunk(b"data: " + b"x" * 10_000 + b"\n\n"))
        await writer.drain()


async def silent(_seen, _writer):
    await asyncio.Event().wait()


async def test_a_client_that_leaves_ends_the_replicas_work(gateway, replica, connect, until):
    for behave in (endless, silent):
        one = await replica(behave)
        setup = await gateway(one)
        client = await connect(setup)
        await client.post(CHAT)
        async with asyncio.timeout(10):
            await one.arrived.wait()
            client.leave()
            await one.left.wait()
        await until(lambda setup=setup: setup.gateway.demand() == {})
        stats = setup.gateway._service.balancer.groups["default/assistant"].stats
        assert sum(stats.requests.values()) == 1
        assert behave is endless or stats.requests == {499: 1}


async def test_a_client_that_closes_its_side_has_left(gateway, replica, connect):
    one = await replica(silent)
    client = await connect(await gateway(one))
    await client.post(CHAT)
    async with asyncio.timeout(10):
        await one.arrived.wait()
        client.writer.write_eof()
        await one.left.wait()


async def test_a_stream_whose_replica_dies_ends_visibly(gateway, replica, connect):
    async def behave(_seen, writer):
        writer.write(SSE + chunk(b"data: 1\n\n") + chunk(b'data: {"par'))
        await writer.drain()
        raise ConnectionError

    client = await connect(await gateway(await replica(behave)))
    reply = await client.ask(CHAT | {"stream": True})
    assert not reply.complete
    first, part, error, rest = reply.body.split(b"\n\n")
    assert (first, part, rest) == (b"data: 1", b'data: {"par', b"")
    assert json.loads(error.removeprefix(b"data: "))["error"]["code"] == "upstream_failed"


async def test_a_stream_that_takes_too_long_ends_visibly(gateway, replica, connect):
    async def behave(_seen, writer):
        writer.write(SSE + chunk(b"data: 1\n\n"))
        await asyncio.Event().wait()

    one = await replica(behave)
    client = await connect(await gateway(one, model={"request_timeout": 0.15}))
    reply = await client.ask(CHAT | {"stream": True})
    assert not reply.complete
    assert json.loads(reply.body.split(b"data: ")[2])["error"]["code"] == "timeout"
    async with asyncio.timeout(10):
        await one.left.wait()


async def test_a_replica_waits_for_a_client_that_does_not_read(gateway, replica, connect, until):
    sent = 0

    async def behave(_seen, writer):
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 200000000\r\n\r\n")
        for _ in range(2000):
            writer.write(b"x" * 100_000)
            await writer.drain()
            sent += 100_000

    setup = await gateway(await replica(behave))
    client = await connect(setup)
    client.writer.transport.pause_reading()
    await client.post(CHAT)
    connection = next(iter(setup.gateway._service.connections))
    await until(lambda: connection._stalled_since is not None)
    before = -1
    while before != sent:
        before = sent
        await asyncio.sleep(0.2)
    # What is under way fits the kernel's buffers of two connections and one buffer of the gateway.
    assert connection._transport.get_write_buffer_size() < 1_000_000
    assert sent < 40_000_000
    client.writer.transport.resume_reading()
    received = 0
    await client.head()
    while received < 200_000_000:
        async with asyncio.timeout(20):
            received += len(await client.reader.read(1 << 20))
    assert sent == received == 200_000_000


async def test_a_client_that_never_reads_is_cut_off(gateway, replica, connect, until):
    one = await replica(endless)
    setup = await gateway(one, stall_timeout="200ms")
    client = await connect(setup)
    client.writer.transport.pause_reading()
    await client.post(CHAT)
    async with asyncio.timeout(20):
        await one.left.wait()
    await until(lambda: setup.gateway.connections == 0)


async def test_an_early_answer_to_a_long_request(gateway, raw_server, connect):
    """The replica refuses before it has read everything; the connection is not used again."""

    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 X\r\ncontent-length: 2\r\n\r\nno")
        await writer.drain()
        await asyncio.Event().wait()

    setup = await gateway()
    setup.directory.set_endpoints("default/assistant", frozenset({await raw_server(serve)}))
    client = await connect(setup)
    for _ in range(2):
        assert (await client.ask(CHAT | {"x": "y" * 20_000_000})).status == 413
    assert setup.gateway._service.balancer.groups["default/assistant"].targets[0].pool.idle == 0


async def test_a_client_that_sends_ahead_is_not_read_without_end(gateway, replica, connect, until):
    one = await replica(silent)
    setup = await gateway(one)
    client = await connect(setup)
    await client.post(CHAT)
    async with asyncio.timeout(10):
        await one.arrived.wait()
    request = b"GET /v1/models HTTP/1.1\r\nhost: a\r\n\r\n"
    flood = asyncio.ensure_future(client.send(request * 2_000_000))
    connection = next(iter(setup.gateway._service.connections))
    await until(lambda: connection._paused_reading)
    assert not flood.done()
    assert len(connection._requests) < 20_000
    flood.cancel()
