"""What runs at once, and what a task takes over."""

import asyncio

import pytest
from modelyard.gateway import eager


async def test_what_need_not_wait_is_over_at_once():
    seen = []

    async def work():
        seen.append(asyncio.current_task())

    assert eager.start(work()) is None
    assert seen == [asyncio.current_task()]


async def test_the_rest_is_a_tasks():
    future = asyncio.get_running_loop().create_future()
    seen = []

    async def work():
        seen.append(await future)
        async with asyncio.timeout(20):
            await asyncio.sleep(0)
            seen.append(asyncio.current_task())

    task = eager.start(work())
    assert task is not None
    assert seen == []
    future.set_result(1)
    await task
    assert seen == [1, task]


@pytest.mark.parametrize("turns", [0, 1, 2])
async def test_a_coroutine_learns_that_it_is_cancelled(turns):
    seen = []

    async def work():
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            await asyncio.sleep(0)
            seen.append("cleaned up")
            raise

    task = eager.start(work())
    assert task is not None
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["cancelled", "cleaned up"]


async def test_errors_come_out_where_the_coroutine_ran():
    async def work(waits):
        if waits:
            await asyncio.sleep(0)
        raise ValueError(waits)

    with pytest.raises(ValueError, match="False"):
        eager.start(work(waits=False))
    task = eager.start(work(waits=True))
    assert task is not None
    with pytest.raises(ValueError, match="True"):
        await task
