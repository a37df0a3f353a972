"""Requests for a model without a ready replica."""

import asyncio
import json

CHAT = {"model": "assistant", "messages": []}
STREAM = CHAT | {"stream": True}


def queued(setup):
    demand = setup.gateway.demand().get("default/assistant")
    return demand.queued if demand else 0


async def test_a_held_request_goes_on_as_soon_as_a_replica_appears(gateway, replica, connect, until):
    one = await replica()
    setup = await gateway()
    client = await connect(setup)
    await client.post(CHAT)
    await until(lambda: queued(setup) == 1)
    assert setup.gateway.demand()["default/assistant"].oldest_queued_seconds >= 0
    setup.point(one)
    assert (await client.reply()).status == 200
    assert setup.gateway.demand() == {}


async def test_first_come_first_served(gateway, replica, connect, until):
    one = await replica()
    setup = await gateway()
    clients = [await connect(setup) for _ in range(10)]
    for number, client in enumerate(clients):
        await client.post(CHAT | {"n": number})
        await until(lambda number=number: queued(setup) == number + 1)
    setup.point(one)
    for client in clients:
        assert (await client.reply()).status == 200
    # Each has a connection of its own, so what is certain is who was let through first.
    assert sorted(json.loads(seen.body)["n"] for seen in one.seen) == list(range(10))


async def test_the_wait_is_bounded(gateway, connect):
    client = await connect(await gateway(model={"max_wait": 0.1}))
    reply = await client.ask(CHAT)
    assert (reply.status, reply.error["code"], int(reply.headers["retry-after"]) > 0) == (503, "no_ready_replica", True)


async def test_the_number_is_bounded(gateway, connect, until):
    setup = await gateway(model={"max_queue": 1})
    first, second = await connect(setup), await connect(setup)
    await first.post(CHAT)
    await until(lambda: queued(setup) == 1)
    reply = await second.ask(CHAT)
    assert (reply.status, "retry-after" in reply.headers) == (503, True)
    assert queued(setup) == 1


async def test_no_queue_means_no_wait(gateway, connect):
    client = await connect(await gateway(model={"max_queue": 0}))
    assert (await client.ask(CHAT)).status == 503


async def test_the_bytes_are_bounded(gateway, connect, until):
    setup = await gateway(max_held_bytes=10_000)
    first, second = await connect(setup), await connect(setup)
    big = CHAT | {"x": "y" * 6000}
    await first.post(big)
    await until(lambda: queued(setup) == 1)
    assert "memory" in (await second.ask(big)).error["message"]
    first.leave()
    await until(lambda: queued(setup) == 0)
    assert setup.gateway._service.balancer.held.used == 0


async def test_a_model_that_cannot_start_is_refused_at_once_with_the_cause(gateway, connect):
    client = await connect(await gateway(model={"blocked": "InsufficientGPU: no node has a free nvidia.com/gpu"}))
    reply = await client.ask(CHAT)
    assert (reply.status, reply.error["code"]) == (503, "model_unavailable")
    assert "InsufficientGPU: no node has a free nvidia.com/gpu" in reply.error["message"]


async def test_a_blocked_model_with_a_ready_replica_is_served(gateway, replica, connect):
    client = await connect(await gateway(await replica(), model={"blocked": "CrashLoop: one of two"}))
    assert (await client.ask(CHAT)).status == 200


async def test_a_held_request_learns_that_the_model_cannot_start(gateway, connect, until):
    setup = await gateway()
    client = await connect(setup)
    await client.post(CHAT)
    await until(lambda: queued(setup) == 1)
    setup.model(blocked="ImagePullFailed: no such image")
    assert "ImagePullFailed" in (await client.reply()).error["message"]


async def test_a_held_request_learns_that_the_model_was_deleted(gateway, connect, until):
    setup = await gateway()
    client = await connect(setup)
    await client.post(CHAT)
    await until(lambda: queued(setup) == 1)
    setup.directory.remove_model("default/assistant")
    assert (await client.reply()).status == 404
    assert setup.gateway._service.balancer.groups == {}


async def test_a_client_that_leaves_gives_its_place_up(gateway, connect, until):
    setup = await gateway()
    client = await connect(setup)
    await client.post(CHAT)
    await until(lambda: queued(setup) == 1)
    client.leave()
    await until(lambda: queued(setup) == 0)


async def test_a_streaming_client_is_kept_alive_and_then_served(gateway, replica, connect):
    async def behave(_seen, writer):
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nx-own: 1\r\ntransfer-encoding: chunked\r\n\r\n")
        writer.write(b"b\r\ndata: 1\r\n\r\n\r\n0\r\n\r\n")

    one = await replica(behave)
    setup = await gateway(model={"keepalive": 0.05})
    client = await connect(setup)
    await client.post(STREAM)
    status, headers = await client.head()
    assert (status, headers["content-type"].partition(";")[0]) == (200, "text/event-stream")
    for _ in range(2):
        assert (await client.chunk()).startswith(b": ")
    setup.point(one)
    while (piece := await client.chunk()).startswith(b": "):
        pass
    assert piece == b"data: 1\r\n\r\n"
    assert await client.chunk() == b""


async def test_no_keepalive_to_a_client_that_does_not_stream(gateway, connect):
    client = await connect(await gateway(model={"keepalive": 0.02, "max_wait": 0.2}))
    assert (await client.ask(CHAT)).status == 503


async def test_errors_after_a_keepalive_are_events(gateway, connect):
    client = await connect(await gateway(model={"keepalive": 0.05, "max_wait": 0.15}))
    reply = await client.ask(STREAM)
    assert (reply.status, reply.complete) == (200, True)
    event = reply.body.split(b"\n\n")[-2]
    assert json.loads(event.removeprefix(b"data: "))["error"]["code"] == "no_ready_replica"


async def test_a_replicas_refusal_after_a_keepalive_is_an_event(gateway, replica, connect):
    one = await replica({"error": {"message": "too long", "type": "invalid_request_error", "param": None, "code": "x"}}, 400)
    setup = await gateway(model={"keepalive": 0.05})
    client = await connect(setup)
    await client.post(STREAM)
    await client.head()
    await client.chunk()
    setup.point(one)
    while (piece := await client.chunk()).startswith(b": "):
        pass
    assert json.loads(piece.removeprefix(b"data: "))["error"]["message"] == "too long"


async def test_held_requests_wait_for_the_rollout(gateway, replica, connect, until):
    """A single replica that is replaced: what it refuses waits for its successor."""
    draining = await replica({"error": {"message": "stopping", "type": "server_error", "param": None, "code": "draining"}}, 503)
    setup = await gateway(draining)
    client = await connect(setup)
    await client.post(CHAT)
    await until(lambda: queued(setup) == 1)
    setup.point(await replica())
    assert (await client.reply()).status == 200


async def test_many_waiting_requests_all_leave(gateway, replica, connect, until):
    one = await replica()
    setup = await gateway(model={"max_queue": 1000})
    clients = [await connect(setup) for _ in range(200)]
    await asyncio.gather(*(client.post(CHAT) for client in clients))
    await until(lambda: queued(setup) == 200)
    setup.point(one)
    replies = await asyncio.gather(*(client.reply() for client in clients))
    assert {reply.status for reply in replies} == {200}
    assert setup.gateway.demand() == {}
