"""The engine contract: submit a prompt, iterate over what it generates, cancel it, drain, ask how things stand.

Everything above this border (HTTP, templates, stop strings, text) knows tokens only through it; everything below knows nothing of HTTP.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch

    from modelyard_runtime.engine.media import Media


class Matcher(Protocol):
    """Where one answer stands in its grammar. Used on the engine's thread alone; whatever it raises fails that request alone."""

    @property
    def terminated(self) -> bool:
        """Whether the answer is complete and nothing may follow; the engine then ends it with the token that was just accepted."""
        ...

    def fill(self, row: torch.Tensor) -> None:
        """Writes which tokens may come next into ``row``, int32 [ceil(vocabulary / 32)] of zeros: bit t % 32 of word t // 32 is token t.

        End-of-sequence tokens are named like others; what the row names is what may be sampled. This is the layout of llguidance and
        of xgrammar.
        """
        ...

    def accept(self, token_id: int) -> None:
        """Goes on by a token that was sampled. Not called with the token that ends an answer."""
        ...


class Grammar(Protocol):
    """A compiled grammar, shared by requests."""

    def matcher(self) -> Matcher:
        """Returns a matcher at the beginning of an answer; called once per request, on the engine's thread."""
        ...


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen. ``temperature`` 0 is greedy: top_p, top_k, min_p and seed are then unused.

    ``logprobs`` asks for the log probability of each generated token and of so many best ones beside it; ``prompt_logprobs`` for the same
    of the prompt's tokens. ``max_tokens`` may be 0 when ``prompt_logprobs`` is set: the prompt is then scored and nothing generated.
    ``grammar`` bounds what may be generated.
    """

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
    prompt_logprobs: int | None = None
    grammar: Grammar | None = None


class FinishReason(StrEnum):
    """Why a sequence ended, in OpenAI's words."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A prompt token's log probability after those before it, and the best tokens there as (token id, log probability)."""

    token_id: int
    logprob: float
    top_logprobs: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """One generated token. ``finish_reason`` is set on the last event.

    ``token_id`` is None only on the one event of a request for no tokens, or of an answer without any. ``text`` is what the token adds to
    the answer where the engine knows that, None where the tokenizer decodes it. ``ends_text`` marks a token that ended the answer (end of
    sequence, or one of stop_token_ids) and is not part of its text. ``logprob`` and ``top_logprobs`` (token id, log probability) are
    present when the request asked for them.

    On the first event alone: ``prompt_logprobs`` when asked for, one entry for each prompt token but the first, and ``cached_tokens``,
    how many of the prompt's tokens were not computed because the cache had them.
    """

    token_id: int | None
    finish_reason: FinishReason | None = None
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()
    ends_text: bool = False
    prompt_logprobs: tuple[TokenLogprob, ...] | None = None
    cached_tokens: int = 0
    text: str | None = None


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A prompt in token ids and how to go on from it.

    ``lora`` names an adapter that the engine has; None is the model as it is. ``media`` are the prompt's images.
    """

    request_id: str
    prompt_token_ids: list[int]
    sampling: SamplingParams
    lora: str | None = None
    media: Media | None = None


#: Upper bounds of the sizes of steps that are told apart, in tokens; steps that are larger come after them. vLLM has the same.
STEP_SIZES = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A snapshot for metrics. Counters only grow; ``kv_cache_usage`` is the share of 1 that running sequences hold.

    Prefix cache counters are in tokens of prompts, as vLLM's are: looked up, and found. Speculative ones are tokens tried and kept, and
    how often some were tried. ``steps_by_size`` counts steps by the tokens that they read of prompts and made, see STEP_SIZES, and
    ``step_tokens_total`` those tokens. ``block_size`` is in tokens, 0 where the cache has no blocks; adapters are those of the running
    and of the waiting requests.
    """

    running: int
    waiting: int
    kv_cache_usage: float
    prompt_tokens_total: int
    generation_tokens_total: int
    preemptions_total: int = 0
    prefix_cache_hits_total: int = 0
    prefix_cache_queries_total: int = 0
    draft_tokens_total: int = 0
    accepted_tokens_total: int = 0
    drafts_total: int = 0
    restarts_total: int = 0
    steps_total: int = 0
    steps_by_size: tuple[int, ...] = ()
    step_tokens_total: int = 0
    block_size: int = 0
    blocks: int = 0
    max_adapters: int = 0
    running_adapters: tuple[str, ...] = ()
    waiting_adapters: tuple[str, ...] = ()


class EngineFailed(Exception):
    """The engine cannot go on; every request in flight gets this, with the cause as its message."""


class RequestFailed(EngineFailed):
    """This request alone cannot go on: its scores are no numbers, its grammar broke, or it does not fit the memory by itself."""


class GrammarFailed(RequestFailed):
    """This request's grammar cannot be followed to its end, though it compiled."""


class NotHonoured(RequestFailed):
    """A request asks for what this engine cannot do; ``param`` is the field of OpenAI's that does."""

    def __init__(self, param: str, message: str):
        super().__init__(message)
        self.param = param


class UnknownAdapter(ValueError):
    """A request names a LoRA adapter that the engine does not have."""


class RequestTooLarge(Exception):
    """The prompt and its answer do not fit the context or the KV cache."""


class InvalidTokens(ValueError):
    """A prompt or a bias names a token that the model does not have: computing it would fail everyone's step."""


class MediaUnsupported(ValueError):
    """A request brings images, and the engine reads tokens alone."""


class TokenStream(Protocol):
    """An asynchronous iterator over one request's tokens as they come. Raises EngineFailed when the engine cannot go on."""

    def __aiter__(self) -> AsyncIterator[TokenEvent]: ...

    async def __anext__(self) -> TokenEvent: ...

    async def aclose(self) -> None:
        """Cancels the request within one step, unless it has ended. Safe to call twice.

        What is no step of a model, but a call of somebody's code, goes on to its end, unseen.
        """
        ...


class Engine(Protocol):
    """A generation engine. All methods are called from one event loop; the work runs on a thread of the engine's own."""

    @property
    def max_model_length(self) -> int:
        """Longest prompt plus answer, in tokens."""
        ...

    @property
    def adapter_names(self) -> tuple[str, ...]:
        """Names of the adapters that requests may ask for, sorted."""
        ...

    @property
    def failure(self) -> EngineFailed | None:
        """Why the engine is dead; None while it lives."""
        ...

    def start(self, on_death: Callable[[EngineFailed], None] | None = None) -> None:
        """Starts the engine's thread; ``on_death`` is called on this event loop, once, if the engine cannot go on."""
        ...

    def check(self, sampling: SamplingParams) -> None:
        """Raises NotHonoured when the engine cannot choose tokens so: to be asked before a request waits for its turn."""
        ...

    def submit(self, request: GenerationRequest) -> TokenStream:
        """Queues a request and returns its tokens as they come. Close the stream to cancel.

        Raises RequestTooLarge, InvalidTokens, UnknownAdapter, MediaUnsupported or NotHonoured at once; the stream raises RequestFailed or
        EngineFailed.
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
