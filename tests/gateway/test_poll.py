"""When the gateway keeps its core awake, and for how long."""

import asyncio

import pytest
from modelyard.gateway.poll import BusyPoll
from modelyard.gateway.settings import GatewaySettings

BOUND = 0.0002


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def served_every(gap: float, *, bound: float = BOUND, requests: int = 20) -> tuple[BusyPoll, Clock]:
    """Returns a poll that has seen so many requests come and end, one at a time, and its clock."""
    clock = Clock()
    poll = BusyPoll(bound, 2, asyncio.get_running_loop(), clock)
    for _ in range(requests):
        clock.now += gap
        poll.began()
        clock.now += gap
        poll.ended()
    return poll, clock


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_frequent_requests_keep_the_loop_turning_until_they_stop():
    poll, clock = await served_every(BOUND / 2)
    for _ in range(5):
        assert poll.polling
        await turns(1)
    clock.now += 2 * BOUND
    await turns(2)
    assert not poll.polling


@pytest.mark.parametrize(("gap", "bound"), [(BOUND * 1.2, BOUND), (0.05, BOUND), (0.0, 0.0), (BOUND / 2, 0.0)])
async def test_rare_requests_and_a_bound_of_zero_let_it_sleep(gap, bound):
    poll, _ = await served_every(gap, bound=bound)
    assert not poll.polling


async def test_as_many_requests_as_cores_end_it_until_one_is_answered():
    poll, _ = await served_every(BOUND / 2)
    poll.began()
    await turns(2)
    assert poll.polling
    poll.began()
    await turns(2)
    assert not poll.polling
    poll.ended()
    assert poll.polling


async def test_a_pause_is_not_held_against_what_follows():
    poll, clock = await served_every(BOUND / 2)
    clock.now += 3600
    for _ in range(10):
        clock.now += BOUND / 2
        poll.began()
        clock.now += BOUND / 2
        poll.ended()
    assert poll.polling


async def test_a_single_request_does_not_begin_it():
    poll, _ = await served_every(BOUND / 100, requests=1)
    assert not poll.polling


def test_the_setting_is_bounded():
    with pytest.raises(ValueError, match="busy_poll_microseconds"):
        GatewaySettings(busy_poll_microseconds=5000)
