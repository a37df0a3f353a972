"""Replicas that fail: what is tried again, what is not, and who is left out for a while."""

import asyncio
import socket

import pytest
from modelyard.gateway.types import Endpoint

CHAT = {"model": "assistant", "messages": []}
DRAINING = {"error": {"message": "stopping", "type": "server_error", "param": None, "code": "draining"}}
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


async def reset(_seen, _writer):
    raise ConnectionError


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def stopped(replica):
    one = await replica()
    await one.stop()
    return one


def group(setup):
    return setup.gateway._service.balancer.groups["default/assistant"]


@pytest.mark.parametrize("failure", ["refused", "reset", "draining", "garbage", "huge head", "no status"])
async def test_a_failure_before_the_first_byte_is_tried_on_another_replica(gateway, replica, connect, failure):
    async def garbage(_seen, writer):
        writer.write(b"SSH-2.0-OpenSSH_9\r\n")

    async def huge(_seen, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nx: " + b"a" * 200_000)
        await writer.drain()

    async def nothing(_seen, writer):
        writer.write(b"HTTP/1.1 000 X\r\ncontent-length: 2\r\n\r\n{}")

    behaviours = {"reset": reset, "garbage": garbage, "huge head": huge, "no status": nothing}
    good = await replica()
    if failure == "refused":
        bad = await stopped(replica)
    else:
        bad = await (replica(DRAINING, 503) if failure == "draining" else replica(behaviours[failure]))
    setup = await gateway(good, bad)
    client = await connect(setup)
    for _ in range(20):
        assert (await client.ask(CHAT)).status == 200
    assert len(good.seen) == 20
    assert group(setup).stats.retries == 1
    assert [target.ejected for target in group(setup).targets if target.endpoint == bad.endpoint] == [True]


async def test_only_one_retry(gateway, replica, connect):
    replicas = [await replica(reset) for _ in range(4)]
    client = await connect(await gateway(*replicas))
    reply = await client.ask(CHAT)
    assert (reply.status, reply.error["code"]) == (502, "upstream_failed")
    assert sum(len(one.seen) for one in replicas) == 2


async def test_an_answer_that_began_is_never_tried_again(gateway, replica, connect):
    async def behave(_seen, writer):
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart")
        await writer.drain()
        raise ConnectionError

    first, second = await replica(behave), await replica(behave)
    client = await connect(await gateway(first, second))
    reply = await client.ask(CHAT)
    assert (reply.complete, reply.body) == (False, b"part")
    assert len(first.seen) + len(second.seen) == 1


async def test_a_client_error_is_an_answer_not_a_failure(gateway, replica, connect):
    error = {"error": {"message": "no", "type": "invalid_request_error", "param": "n", "code": None}}
    one = await replica(error, 400)
    setup = await gateway(one)
    client = await connect(setup)
    for status in (400, 400):
        reply = await client.ask(CHAT)
        assert (reply.status, reply.json()) == (status, error)
    assert not group(setup).targets[0].ejected


async def test_a_503_that_is_not_draining_passes(gateway, replica, connect):
    error = {"error": {"message": "full", "type": "server_error", "param": None, "code": "queue_timeout"}}
    one, two = await replica(error, 503), await replica(error, 503)
    reply = await (await connect(await gateway(one, two))).ask(CHAT)
    assert (reply.status, reply.json()) == (503, error)
    assert len(one.seen) + len(two.seen) == 1


async def test_when_all_drain_the_client_hears_it(gateway, replica, connect):
    one, two = await replica(DRAINING, 503), await replica(DRAINING, 503)
    reply = await (await connect(await gateway(one, two))).ask(CHAT)
    assert (reply.status, reply.json()) == (503, DRAINING)


async def test_an_idle_connection_closed_by_the_replica_costs_nothing(gateway, replica, connect):
    """As when uvicorn's keep-alive ends just as the connection is used again."""
    count = 0

    async def behave(_seen, writer):
        nonlocal count
        count += 1
        if count == 2:
            raise ConnectionError
        writer.write(OK)

    one = await replica(behave)
    setup = await gateway(one)
    client = await connect(setup)
    assert [(await client.ask(CHAT)).status for _ in range(3)] == [200, 200, 200]
    assert group(setup).stats.failures == {}
    assert one.connections == 2


async def test_the_pool_drops_what_is_idle_for_long(gateway, replica, connect, until):
    one = await replica()
    setup = await gateway(one, upstream_idle_timeout="100ms")
    client = await connect(setup)
    assert (await client.ask(CHAT)).status == 200
    await until(lambda: group(setup).targets[0].pool.idle == 0)
    async with asyncio.timeout(10):
        await one.left.wait()
    assert (await client.ask(CHAT)).status == 200


async def test_an_ejected_replica_comes_back(gateway, raw_server, connect, until):
    port = free_port()
    setup = await gateway()
    setup.directory.set_endpoints("default/assistant", frozenset({Endpoint("127.0.0.1", port)}))
    client = await connect(setup)
    await client.post(CHAT)
    await until(lambda: any(one.queued for one in setup.gateway.demand().values()))

    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)

    await raw_server(serve, port)
    assert (await client.reply()).body == b"ok"
    assert group(setup).targets[0].failures == 0


async def test_an_unroutable_replica_is_given_up_after_the_connect_timeout(gateway, replica, connect):
    good = await replica()
    setup = await gateway(connect_timeout="100ms")
    # A listener whose backlog is full accepts no connection and refuses none.
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        port = deaf.getsockname()[1]
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
            fillers.append(filler)
        setup.directory.set_endpoints("default/assistant", frozenset({Endpoint("127.0.0.1", port), good.endpoint}))
        client = await connect(setup)
        for _ in range(10):
            assert (await client.ask(CHAT)).status == 200
        for filler in fillers:
            filler.close()


async def test_a_removed_replica_finishes_its_streams_and_gets_no_more(gateway, replica, connect, until):
    go_on = asyncio.Event()

    async def behave(_seen, writer):
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n")
        await writer.drain()
        await go_on.wait()
        writer.write(b"9\r\ndata: 2\n\n\r\n0\r\n\r\n")

    old = await replica(behave)
    setup = await gateway(old)
    clients = [await connect(setup) for _ in range(8)]
    for client in clients:
        await client.post(CHAT | {"stream": True})
        assert (await client.head())[0] == 200
    new = await replica()
    setup.point(new)
    other = await connect(setup)
    for _ in range(5):
        assert (await other.ask(CHAT)).status == 200
    assert (len(old.seen), len(new.seen)) == (8, 5)
    assert setup.gateway.demand()["default/assistant"].in_flight == 8
    go_on.set()
    for client in clients:
        assert await client.chunk() == b"data: 1\n\n"
        assert await client.chunk() == b"data: 2\n\n"
        assert await client.chunk() == b""
    await until(lambda: setup.gateway.demand() == {})


async def test_load_is_spread(gateway, replica, connect, until):
    go_on = asyncio.Event()

    async def behave(_seen, writer):
        await go_on.wait()
        writer.write(OK)

    replicas = [await replica(behave) for _ in range(4)]
    setup = await gateway(*replicas)
    clients = [await connect(setup) for _ in range(64)]
    for number, client in enumerate(clients):
        await client.post(CHAT)
        await until(lambda number=number: sum(len(one.seen) for one in replicas) > number)
    counts = [len(one.seen) for one in replicas]
    go_on.set()
    for client in clients:
        assert (await client.reply()).status == 200
    assert max(counts) - min(counts) <= 8


async def test_a_request_that_takes_too_long_is_504(gateway, replica, connect):
    async def behave(_seen, _writer):
        await asyncio.Event().wait()

    one = await replica(behave)
    setup = await gateway(one, model={"request_timeout": 0.15})
    client = await connect(setup)
    reply = await client.ask(CHAT)
    assert (reply.status, reply.error["code"]) == (504, "timeout")
    async with asyncio.timeout(10):
        await one.left.wait()
    assert setup.gateway.demand() == {}
    one.behave = (await replica()).behave
    assert (await client.ask(CHAT)).status == 200


async def test_nothing_is_kept_of_deleted_models(gateway, replica, connect):
    one = await replica()
    setup = await gateway(one)
    client = await connect(setup)
    assert (await client.ask(CHAT)).status == 200
    setup.directory.remove_model("default/assistant")
    reply = await client.ask(CHAT)
    assert (reply.status, reply.error["code"]) == (404, "model_not_found")
    assert setup.gateway._service.balancer.groups == {}
    async with asyncio.timeout(10):
        await one.left.wait()
