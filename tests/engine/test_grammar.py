"""Grammars as the engine sees them: a mask before each token, an end when nothing may follow, and failures of one request alone."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from modelyard_runtime.engine.base import RequestFailed, SamplingParams
from modelyard_runtime.engine.sampler import RowState, sample


@dataclass
class Script:
    """A grammar by hand: at each place some tokens may come, and after the last place nothing."""

    places: list[set[int]]
    made: int = 0

    def matcher(self) -> "Reader":
        self.made += 1
        return Reader(self.places)


@dataclass
class Reader:
    places: list[set[int]]
    read: list[int] = field(default_factory=list)

    @property
    def terminated(self) -> bool:
        return len(self.read) == len(self.places)

    def fill(self, row: torch.Tensor) -> None:
        for token in self.places[len(self.read)]:
            row[token // 32] |= torch.tensor(1 << (token % 32)).to(torch.int32)

    def accept(self, token_id: int) -> None:
        if token_id not in self.places[len(self.read)]:
            raise ValueError(f"{token_id} is not allowed")
        self.read.append(token_id)


def test_only_what_the_grammar_names_is_chosen() -> None:
    scores = torch.randn(3, 70, generator=torch.Generator().manual_seed(1))
    allowed = {0, 31, 32, 63, 69}
    rows = [
        RowState(SamplingParams(temperature=0.0, grammar=Script([allowed])), [1]),
        RowState(SamplingParams(temperature=5.0, seed=3, grammar=Script([{40}]), logit_bias={7: 100.0}), [1]),
        RowState(SamplingParams(temperature=0.0), [1]),
    ]
    before = scores.clone()
    first, second, third = sample(scores, rows)
    assert first.token_id == max(allowed, key=lambda token: float(before[0, token]))
    assert second.token_id == 40
    assert third.token_id == int(before[2].argmax())
    assert torch.equal(scores, before)


async def test_an_answer_ends_with_the_token_that_completes_the_grammar(kit: Any) -> None:
    script = Script([{9}, {10, 11}, {12}])
    async with kit.engine("qwen3") as engine:
        events = await kit.collect(engine, [5, 6], max_tokens=50, temperature=1.0, seed=4, grammar=script)
        assert [event.token_id for event in events][::2] == [9, 12]
        assert [event.finish_reason for event in events] == [None, None, "stop"]
        assert not any(event.ends_text for event in events)


async def test_an_end_of_sequence_token_that_the_grammar_allows_is_no_text(kit: Any) -> None:
    async with kit.engine("qwen3") as engine:
        events = await kit.collect(engine, [5, 6], max_tokens=50, grammar=Script([{9}, {2}]), ignore_eos=False)
        assert [(event.token_id, event.ends_text) for event in events] == [(9, False), (2, True)]


async def test_requests_with_one_grammar_have_matchers_of_their_own_and_neighbours_are_unchanged(kit: Any) -> None:
    script = Script([{9, 10}] * 6)
    async with kit.engine("qwen3") as engine:
        plain = await kit.tokens(engine, [5, 6], max_tokens=6)
        *bound, neighbour = await asyncio.gather(
            *(kit.tokens(engine, [5, 6], max_tokens=6, temperature=2.0, seed=i, grammar=script) for i in range(3)),
            kit.tokens(engine, [5, 6], max_tokens=6),
        )
    assert script.made == 3
    assert all(set(tokens) <= {9, 10} for tokens in bound)
    assert neighbour == plain


class Broken(Script):
    def matcher(self) -> Reader:
        raise MemoryError("too many states")


@pytest.mark.parametrize(
    ("grammar", "said"),
    [
        (Broken([]), "MemoryError: too many states"),
        (Script([{9}, set()]), "allows no token"),
        (Script([{9}, {10**6}]), "IndexError"),
    ],
    ids=["raises", "dead end", "beyond the vocabulary"],
)
async def test_a_grammar_that_breaks_fails_its_request_alone(kit: Any, grammar: Script, said: str) -> None:
    async with kit.engine("qwen3") as engine:
        neighbour = asyncio.create_task(kit.tokens(engine, [5, 6], max_tokens=20))
        with pytest.raises(RequestFailed, match=said):
            await kit.tokens(engine, [5, 6], max_tokens=20, grammar=grammar)
        assert len(await neighbour) == 20
        assert engine.failure is None


class Forgetful(Reader):
    def accept(self, token_id: int) -> None:
        raise RuntimeError("lost my place")


class Unlucky(Script):
    def matcher(self) -> Reader:
        return Forgetful(self.places)


async def test_a_matcher_that_cannot_take_a_token_is_not_asked_again(kit: Any) -> None:
    async with kit.engine("qwen3") as engine:
        with pytest.raises(RequestFailed, match="lost my place"):
            await kit.tokens(engine, [5, 6], max_tokens=20, grammar=Unlucky([{9}]))
