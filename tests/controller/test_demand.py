import asyncio
import json
import time

import pytest
from aiohttp import web
from modelyard.controller import projections
from modelyard.controller.demand import DemandFeeds, parse
from modelyard.controller.projections import Gateway
from modelyard.controller.queue import WorkQueue
from modelyard.controller.scaler import Scaler
from modelyard.controller.types import Demand, Key

CHAT = Key("default", "chat")


class FakeGateway:
    """Answers /demand?watch=1 with the lines given to `say`, until `stop`."""

    def __init__(self):
        self.lines, self.connected = asyncio.Queue(), asyncio.Event()

    async def start(self):
        app = web.Application()
        app.add_routes([web.get("/demand", self._demand)])
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0]
        self.address = f"{host}:{port}"

    async def _demand(self, request):
        assert request.query["watch"] == "1"
        response = web.StreamResponse()
        await response.prepare(request)
        self.connected.set()
        while (line := await self.lines.get()) is not None:
            await response.write(line)
        return response

    def say(self, in_flight=0, queued=0):
        told = {"time": 1.0, "models": {"default/chat": {"inFlight": in_flight, "queued": queued, "oldestQueuedSeconds": 0.5}}}
        self.lines.put_nowait(json.dumps(told).encode() + b"\n")

    async def stop(self):
        self.lines.put_nowait(None)
        await self._runner.cleanup()


@pytest.fixture
async def gateways():
    made = [FakeGateway(), FakeGateway()]
    for gateway in made:
        await gateway.start()
    yield made
    for gateway in made:
        await gateway.stop()


async def test_the_demand_of_all_gateways_is_summed_and_leaves_with_them(gateways):
    changed = asyncio.Queue()
    feeds = DemandFeeds(changed.put_nowait)
    first, second = gateways
    feeds.follow(frozenset(Gateway(gateway.address, True) for gateway in gateways))
    first.say(in_flight=2)
    second.say(in_flight=1, queued=3)
    assert [await changed.get(), await changed.get()] == [{CHAT}, {CHAT}]
    assert feeds.demand(CHAT) == Demand(3, 3, 0.5)
    feeds.follow(frozenset({Gateway(second.address, True)}))
    assert await changed.get() == {CHAT}
    assert feeds.demand(CHAT) == Demand(1, 3, 0.5)
    await feeds.close()


async def test_a_gateway_that_falls_silent_keeps_its_word_and_nothing_counts_as_known(gateways):
    changed = asyncio.Queue()
    feeds = DemandFeeds(changed.put_nowait)
    gateway = gateways[0]
    feeds.follow(frozenset({Gateway(gateway.address, True)}))
    gateway.say(in_flight=5)
    await changed.get()
    now = feeds._feeds[gateway.address].heard
    assert feeds.heard_since(now) == now
    assert feeds.heard_since(now + 4) == now
    assert feeds.heard_since(now + 6) is None
    assert feeds.demand(CHAT).in_flight == 5
    feeds.follow(frozenset({Gateway(gateway.address, False)}))  # not ready any more: its word is kept and not waited for
    assert feeds.heard_since(now + 7) == now + 7
    assert feeds.demand(CHAT).in_flight == 5
    await feeds.close()


async def test_a_gateway_that_talks_garbage_is_not_heard(gateways):
    changed = asyncio.Queue()
    feeds = DemandFeeds(changed.put_nowait)
    gateway = gateways[0]
    feeds.follow(frozenset({Gateway(gateway.address, True)}))
    gateway.lines.put_nowait(b"garbage\n")
    gateway.lines.put_nowait(None)
    async with asyncio.timeout(5):
        await gateway.connected.wait()
        gateway.connected.clear()
        await gateway.connected.wait()  # it was hung up on, and asked again
    assert feeds.heard_since(time.monotonic()) is None
    gateway.say(in_flight=1)
    assert await asyncio.wait_for(changed.get(), 5) == {CHAT}
    assert feeds.heard_since(time.monotonic()) is not None
    await feeds.close()


async def test_without_a_gateway_nothing_is_known():
    feeds = DemandFeeds(lambda keys: None)
    assert feeds.heard_since(1000.0) is None


async def test_a_held_request_wakes_a_model_at_once(gateways, make_model):
    queue = WorkQueue()
    scaler = Scaler(queue)
    model = make_model("chat", scaling={"minReplicas": 0, "maxReplicas": 2, "scaleDownDelay": "0s"})
    scaler.note(CHAT, model, 0, 0, 0)
    scaler.feeds.follow(frozenset({Gateway(gateways[0].address, True)}))
    gateways[0].say(queued=1)
    async with asyncio.timeout(5):
        assert await queue.get() == CHAT
    assert scaler.desired(CHAT) == 1
    assert scaler.decisions(CHAT)[0].why == "0 in flight and 1 queued, 8 per replica, at most 2"
    queue.done(CHAT)
    scaler.note(CHAT, model, 1, 0, 0)
    gateways[0].say()
    async with asyncio.timeout(5):
        while scaler.feeds.demand(CHAT).queued:  # noqa: ASYNC110 (what is read changes nothing while a replica loads)
            await asyncio.sleep(0.01)
    scaler.tick()
    assert scaler.desired(CHAT) == 1  # still loading
    scaler.note(CHAT, model, 1, 1, 0)
    assert scaler.desired(CHAT) == 0
    assert await queue.get() == CHAT
    await scaler.reset()
    assert scaler.desired(CHAT) is None


def test_a_fixed_number_of_replicas_is_not_the_autoscalers(make_model):
    scaler = Scaler(WorkQueue())
    scaler.note(CHAT, make_model("chat", scaling={"minReplicas": 2}), 2, 2, 0)
    assert scaler.desired(CHAT) is None


@pytest.mark.parametrize(
    "line",
    [b"", b"[]", b"{}", b'{"models": 3}', b'{"models": {"a/b": 3}}', b'{"models": {"a/b": {"queued": 1}}}', b"\xff"]
    + [f'{{"models": {{"a/b": {{"inFlight": {told}, "queued": 0}}}}}}'.encode() for told in ("-1", "1.5", "1e308", '"3"', "10000000")],
)
def test_a_broken_line_is_refused(line):
    with pytest.raises(ValueError, match=r"."):
        parse(line)


def test_gateways_are_read_from_the_slices():
    raw = {
        "ports": [{"name": "private", "port": 9090}],
        "endpoints": [
            {"addresses": ["10.0.0.1"], "conditions": {"ready": True}},
            {"addresses": ["10.0.0.2"], "conditions": {"ready": False, "serving": True, "terminating": True}},
            {"addresses": ["fd00::1"], "conditions": {}},
        ],
    }
    assert projections.gateways(raw) == {Gateway("10.0.0.1:9090", True), Gateway("10.0.0.2:9090", False), Gateway("[fd00::1]:9090", True)}
    assert projections.gateways({"ports": None, "endpoints": None}) == frozenset()
