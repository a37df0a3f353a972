import asyncio

import aiohttp

CHAT = {"model": "assistant", "messages": []}
SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def streaming(go_on):
    async def behave(_seen, writer):
        writer.write(SSE + b"9\r\ndata: 1\n\n\r\n")
        await writer.drain()
        await go_on.wait()
        writer.write(b"9\r\ndata: 2\n\n\r\n0\r\n\r\n")

    return behave


async def readyz(setup):
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{setup.gateway.private_port}/readyz") as answer:
        return answer.status


async def test_streams_end_before_the_gateway_does(gateway, replica, connect, until):
    go_on = asyncio.Event()
    one = await replica(streaming(go_on))
    setup = await gateway(one, settle_time="300ms")
    streaming_client, idle, late = await connect(setup), await connect(setup), await connect(setup)
    await streaming_client.post(CHAT | {"stream": True})
    await streaming_client.head()
    draining = asyncio.ensure_future(setup.gateway.drain())
    await until(lambda: not setup.gateway.ready())
    assert await readyz(setup) == 503
    assert await idle.ended() == b""
    assert not draining.done()
    go_on.set()
    assert [await streaming_client.chunk() for _ in range(3)] == [b"data: 1\n\n", b"data: 2\n\n", b""]
    assert await streaming_client.ended() == b""
    async with asyncio.timeout(10):
        await draining
    assert await late.ended() == b""
    assert setup.gateway.connections == 0


async def test_requests_during_the_settle_time_are_served(gateway, replica, until):
    setup = await gateway(await replica(), settle_time="1s")
    draining = asyncio.ensure_future(setup.gateway.drain())
    await until(lambda: not setup.gateway.ready())
    async with aiohttp.ClientSession() as session:
        for _ in range(3):
            async with session.post(f"http://127.0.0.1:{setup.gateway.port}/v1/chat/completions", json=CHAT) as answer:
                assert (answer.status, answer.headers["connection"]) == (200, "close")
    async with asyncio.timeout(10):
        await draining


async def test_what_outlasts_the_drain_ends_visibly(gateway, replica, connect, until):
    one = await replica(streaming(asyncio.Event()))
    setup = await gateway(one, drain_timeout="200ms")
    stream, held = await connect(setup), await connect(setup)
    await stream.post(CHAT | {"stream": True})
    await stream.head()
    setup.point()
    await held.post(CHAT)
    await until(lambda: any(one.queued for one in setup.gateway.demand().values()))
    async with asyncio.timeout(10):
        await setup.gateway.drain()
    assert (await held.reply()).error["code"] == "draining"
    ended = await stream.ended()
    assert b'"draining"' in ended
    assert not ended.endswith(b"0\r\n\r\n")
    async with asyncio.timeout(10):
        await one.left.wait()
