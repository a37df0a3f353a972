"""The engine contract: submit a prompt, iterate over what it generates, cancel it, drain, ask how things stand.

Everything above this border (HTTP, templates, stop strings, text) knows tokens only through it; everything below knows nothing of HTTP.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen. ``temperature`` 0 is greedy: the other fields but the penalties are then unused."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    max_tokens: int = 16
    stop_token_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False
    logit_bias: dict[int, float] = field(default_factory=dict)
    logprobs: int | None = None


class FinishReason(StrEnum):
    """Why a sequence ended, in OpenAI's words."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """One generated token. ``finish_reason`` is set on the last event; an end-of-sequence token is reported there and not part of the text.

    ``logprob`` and ``top_logprobs`` (token id, log probability) are present when the request asked for them.
    """

    token_id: int
    finish_reason: FinishReason | None = None
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A prompt in token ids and how to go on from it."""

    request_id: str
    prompt_token_ids: list[int]
    sampling: SamplingParams


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A snapshot for metrics. Counters only grow; ``kv_cache_usage`` is a share of 1."""

    running: int
    waiting: int
    kv_cache_usage: float
    prompt_tokens_total: int
    generation_tokens_total: int
    preemptions_total: int = 0
    prefix_cache_hits_total: int = 0
    prefix_cache_queries_total: int = 0
    steps_total: int = 0


class EngineFailed(Exception):
    """The engine cannot go on; every request in flight gets this, with the cause as its message."""


class RequestTooLarge(Exception):
    """The prompt and its answer do not fit the context or the KV cache."""


class InvalidTokens(ValueError):
    """A prompt or a bias names a token that the model does not have: computing it would fail everyone's step."""


class TokenStream(Protocol):
    """An asynchronous iterator over one request's tokens as they come. Raises EngineFailed when the engine cannot go on."""

    def __aiter__(self) -> AsyncIterator[TokenEvent]: ...

    async def __anext__(self) -> TokenEvent: ...

    async def aclose(self) -> None:
        """Cancels the request within one step, unless it has ended. Safe to call twice."""
        ...


class Engine(Protocol):
    """A generation engine. All methods are called from one event loop; the work runs on a thread of the engine's own."""

    @property
    def max_model_length(self) -> int:
        """Longest prompt plus answer, in tokens."""
        ...

    @property
    def failure(self) -> EngineFailed | None:
        """Why the engine is dead; None while it lives."""
        ...

    def start(self) -> None:
        """Starts the engine's thread."""
        ...

    def submit(self, request: GenerationRequest) -> TokenStream:
        """Queues a request and returns its tokens as they come. Close the stream to cancel.

        Raises RequestTooLarge or InvalidTokens at once, and EngineFailed from the stream.
        """
        ...

    async def warm_up(self) -> None:
        """Runs a prefill and a decode step through every path. Raises EngineFailed."""
        ...

    async def drain(self) -> None:
        """Returns when no request is left; new ones are the caller's to refuse."""
        ...

    async def stop(self) -> None:
        """Ends the thread; requests in flight get EngineFailed."""
        ...

    def stats(self) -> EngineStats:
        """Returns a snapshot."""
        ...
