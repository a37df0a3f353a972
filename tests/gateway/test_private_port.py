import asyncio
import json
import re
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
CHAT = {"model": "assistant", "messages": []}


@pytest.fixture
async def private():
    async with aiohttp.ClientSession() as session:
        yield lambda setup, path: session.get(f"http://127.0.0.1:{setup.gateway.private_port}{path}")


async def samples(private, setup):
    async with private(setup, "/metrics") as answer:
        families = text_string_to_metric_families(await answer.text())
    return {
        (sample.name.removeprefix("modelyard_gateway_"), *sorted(sample.labels.values())): sample.value
        for family in families
        for sample in family.samples
    }


async def test_the_page_has_every_metric(gateway, private):
    setup = await gateway()
    async with private(setup, "/metrics") as answer:
        families = text_string_to_metric_families(await answer.text())
    there = {family.name + "_total" * (family.type == "counter") for family in families if family.name.startswith("modelyard_")}
    assert there == set(re.findall(r"`(modelyard_gateway_\w+)", PAGE.read_text()))


async def test_metrics(gateway, replica, connect, private):
    setup = await gateway(await replica())
    client = await connect(setup)
    for _ in range(3):
        await client.ask(CHAT)
    for name in ("nope", "nada", "x" * 1000):
        await client.ask({"model": name})
    seen = await samples(private, setup)
    assert seen["requests_total", "200", "default/assistant"] == 3
    assert seen["requests_total", "", "404"] == 3
    assert seen["request_duration_seconds_count", "default/assistant"] == 3
    assert seen["time_to_first_byte_seconds_count", "default/assistant"] == 3
    assert seen["endpoints", "default/assistant"] == 1
    assert seen["connections",] == 1
    assert seen["requests_in_flight", "default/assistant"] == 0
    assert not any("nope" in key or "nada" in key for key in seen)
    setup.directory.remove_model("default/assistant")
    assert not any("default/assistant" in key for key in await samples(private, setup))


async def test_probes(gateway, private):
    setup = await gateway()
    for path, status in (("/healthz", 200), ("/readyz", 200), ("/nope", 404)):
        async with private(setup, path) as answer:
            assert answer.status == status


async def test_demand_snapshot(gateway, connect, private, until):
    setup = await gateway()
    async with private(setup, "/demand") as answer:
        assert (await answer.json())["models"] == {}
    client = await connect(setup)
    await client.post(CHAT)
    await until(lambda: bool(setup.gateway.demand()))
    async with private(setup, "/demand") as answer:
        document = await answer.json()
    assert document["time"] > 1_700_000_000
    assert document["models"]["default/assistant"].keys() == {"inFlight", "queued", "oldestQueuedSeconds"}
    assert document["models"]["default/assistant"]["queued"] == 1


async def test_demand_is_told_at_once_and_each_second(gateway, replica, connect, private):
    go_on = asyncio.Event()

    async def behave(_seen, writer):
        await go_on.wait()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    setup = await gateway(await replica(behave))
    client = await connect(setup)
    loop = asyncio.get_running_loop()
    async with private(setup, "/demand?watch=1") as feed:

        async def line():
            async with asyncio.timeout(10):
                return json.loads(await feed.content.readline())["models"]

        assert await line() == {}
        await client.post(CHAT)
        while not (models := await line()):
            pass
        assert models == {"default/assistant": {"inFlight": 1, "queued": 0, "oldestQueuedSeconds": 0.0}}
        start = loop.time()
        assert (await line()).keys() == {"default/assistant"}
        assert 0.5 < loop.time() - start < 5
        go_on.set()
        assert (await client.reply()).status == 200
        while await line():
            pass


async def test_the_feed_is_thinned(gateway, replica, connect, private):
    setup = await gateway(await replica())
    client = await connect(setup)
    loop = asyncio.get_running_loop()
    async with private(setup, "/demand?watch=1") as feed:
        await feed.content.readline()
        start = loop.time()
        lines = 0

        async def count():
            nonlocal lines
            while await feed.content.readline():
                lines += 1

        counting = asyncio.ensure_future(count())
        while loop.time() - start < 0.5:
            assert (await client.ask(CHAT)).status == 200
        counting.cancel()
        assert 1 <= lines <= (loop.time() - start) * 20 + 2


async def test_a_follower_that_leaves_is_forgotten(gateway, private, until):
    setup = await gateway()
    changes = setup.gateway._service.changes
    async with private(setup, "/demand?watch=1") as feed:
        await feed.content.readline()
        assert len(changes._followers) == 1
    await until(lambda: not changes._followers)
