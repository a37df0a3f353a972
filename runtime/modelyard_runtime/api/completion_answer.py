"""Completions in OpenAI's shapes: chunks as they come, or all choices at once, the best of several where that was asked for."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from modelyard_runtime.api import sse
from modelyard_runtime.api.logprobs import Spelling, TokenLists
from modelyard_runtime.api.usage import usage
from modelyard_runtime.engine.base import FinishReason, TokenLogprob
from modelyard_runtime.models.text import TextDelta


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt's tokens, and its text where that goes before each answer."""

    tokens: list[int]
    echo: str


@dataclass(slots=True)
class _Candidate:
    """One answer so far. ``lists`` are the log probabilities not given out yet; None when they were not asked for."""

    prompt: Prompt
    lists: TokenLists | None
    begun: bool = False
    text: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    tokens: int = 0
    cached_tokens: int = 0
    finish_reason: FinishReason | None = None

    def add(self, delta: TextDelta, spelling: Spelling) -> str:
        """Takes a delta in and returns its text, after the prompt's where it is the first."""
        text = delta.text
        if not self.begun:
            self.begun = True
            text = self.prompt.echo + text
            self._add_prompt(delta.events[0].prompt_logprobs, spelling)
        if self.lists is not None:
            self.lists.add(delta.tokens, spelling, len(self.prompt.echo))
        self.text.append(text)
        self.scores += [event.logprob for event in delta.events if event.logprob is not None]
        self.tokens = delta.completion_tokens
        self.cached_tokens += sum(event.cached_tokens for event in delta.events)
        self.finish_reason = delta.finish_reason
        return text

    def _add_prompt(self, scored: tuple[TokenLogprob, ...] | None, spelling: Spelling) -> None:
        if self.lists is not None and self.prompt.echo:
            self.lists.add_prompt(self.prompt.tokens, scored or (), self.prompt.echo, spelling)

    @property
    def likelihood(self) -> float:
        """Mean log probability of its tokens."""
        return sum(self.scores) / max(1, len(self.scores))

    def taken_lists(self) -> dict[str, Any] | None:
        """Returns the log probabilities since the last call, in OpenAI's shape."""
        if self.lists is None:
            return None
        taken, self.lists = self.lists, TokenLists()
        return taken.to_dict()


@dataclass(frozen=True, slots=True)
class CompletionAnswer:
    """The answers to ``prompts``: ``candidates`` of each are computed, ``choices`` are given.

    ``head`` has what every chunk repeats: id, created, model, fingerprint. Close ``deltas`` to cancel.
    """

    head: dict[str, Any]
    prompts: list[Prompt]
    deltas: AsyncGenerator[tuple[int, TextDelta], None]
    spelling: Spelling
    choices: int
    candidates: int
    logprobs: bool
    include_usage: bool
    usage_in_chunks: bool

    async def whole(self) -> dict[str, Any]:
        """Returns all choices, in the order of the prompts; of several candidates those with the highest mean log probability."""
        candidates = self._candidates()
        async with aclosing(self.deltas) as deltas:
            async for index, delta in deltas:
                candidates[index].add(delta, self.spelling)
        chosen = [self._choice(index, candidate) for index, candidate in enumerate(self._best(candidates))]
        return {**self._head, "choices": chosen, "usage": self._usage(candidates)}

    async def stream(self) -> AsyncIterator[bytes]:
        """Yields chunks as events, then the usage if asked for."""
        candidates = self._candidates()
        async with aclosing(self.deltas) as deltas:
            async for index, delta in deltas:
                text = candidates[index].add(delta, self.spelling)
                chunk = {**self._head, "choices": [self._choice(index, candidates[index], text)]}
                if self.include_usage:
                    chunk["usage"] = self._usage(candidates) if self.usage_in_chunks else None
                yield sse.event(chunk)
        if self.include_usage:
            yield sse.event({**self._head, "choices": [], "usage": self._usage(candidates)})

    @property
    def _head(self) -> dict[str, Any]:
        return {**self.head, "object": "text_completion"}

    def _candidates(self) -> list[_Candidate]:
        return [_Candidate(prompt, TokenLists() if self.logprobs else None) for prompt in self.prompts for _ in range(self.candidates)]

    def _best(self, candidates: list[_Candidate]) -> list[_Candidate]:
        if self.candidates == self.choices:
            return candidates
        groups = [candidates[start : start + self.candidates] for start in range(0, len(candidates), self.candidates)]
        ranked = [sorted(group, key=lambda candidate: -candidate.likelihood) for group in groups]
        return [candidate for group in ranked for candidate in group[: self.choices]]

    def _choice(self, index: int, candidate: _Candidate, text: str | None = None) -> dict[str, Any]:
        return {
            "index": index,
            "text": "".join(candidate.text) if text is None else text,
            "logprobs": candidate.taken_lists(),
            "finish_reason": candidate.finish_reason,
        }

    def _usage(self, candidates: list[_Candidate]) -> dict[str, Any]:
        return usage(
            sum(len(prompt.tokens) for prompt in self.prompts),
            sum(candidate.tokens for candidate in candidates),
            cached_tokens=sum(candidate.cached_tokens for candidate in candidates[:: self.candidates]),
        )
