"""When the gateway keeps its core awake, and for how long."""

import asyncio

import pytest
from modelyard.gateway.poll import BusyPoll, cpu_is_limited
from modelyard.gateway.settings import GatewaySettings

BOUND = 0.0002


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def seen_every(gap: float, *, bound: float = BOUND, times: int = 40) -> tuple[BusyPoll, Clock]:
    """Returns a poll that has seen so many events, and its clock."""
    clock = Clock()
    poll = BusyPoll(bound, asyncio.get_running_loop(), clock)
    for _ in range(times):
        clock.now += gap
        poll.seen()
    return poll, clock


async def test_frequent_requests_keep_the_loop_turning_until_they_stop():
    poll, clock = await seen_every(BOUND / 2)
    assert poll.polling
    for _ in range(5):
        await asyncio.sleep(0)
        assert poll.polling
    clock.now += BOUND
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not poll.polling


@pytest.mark.parametrize(("gap", "bound"), [(BOUND * 1.2, BOUND), (0.05, BOUND), (0.0, 0.0), (BOUND / 2, 0.0)])
async def test_rare_requests_and_a_bound_of_zero_let_it_sleep(gap, bound):
    poll, _ = await seen_every(gap, bound=bound)
    assert not poll.polling


async def test_a_pause_is_not_held_against_what_follows():
    poll, clock = await seen_every(BOUND / 2)
    clock.now += 3600
    poll.seen()
    for _ in range(20):
        clock.now += BOUND / 2
        poll.seen()
    assert poll.polling


async def test_a_single_pair_of_requests_does_not_begin_it():
    poll, _ = await seen_every(BOUND / 100, times=2)
    assert not poll.polling


@pytest.mark.parametrize(("text", "limited"), [("max 100000\n", False), ("50000 100000\n", True), (None, False)])
def test_a_cpu_limit_is_read_from_the_control_group(tmp_path, text, limited):
    file = tmp_path / "cpu.max"
    if text is not None:
        file.write_text(text)
    assert cpu_is_limited(file) is limited


def test_the_setting_is_bounded():
    with pytest.raises(ValueError, match="busy_poll_microseconds"):
        GatewaySettings(busy_poll_microseconds=5000)
