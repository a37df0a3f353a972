"""The engine over a Transformers causal LM: a thread that steps, and streams that the event loop reads.

The thread owns scheduler, cache and model; the loop talks to it by an inbox of calls, and hears from it once per step.
"""

import asyncio
import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch

from modelyard_runtime.engine.base import (
    EngineFailed,
    EngineStats,
    FinishReason,
    GenerationRequest,
    InvalidTokens,
    RequestFailed,
    RequestTooLarge,
    TokenEvent,
)
from modelyard_runtime.engine.cache import KVCache, SlotPool
from modelyard_runtime.engine.capacity import choose_capacity
from modelyard_runtime.engine.probe import adopt
from modelyard_runtime.engine.runner import Runner
from modelyard_runtime.engine.sampler import Sampled, sample
from modelyard_runtime.engine.scheduler import Scheduler, Work, ends_text, is_full
from modelyard_runtime.engine.sequence import Sequence
from modelyard_runtime.engine.settings import EngineSettings
from modelyard_runtime.engine.stream import SequenceStream
from modelyard_runtime.engine.warmup import warmup_requests
from modelyard_runtime.models.loading import LoadedModel

logger = logging.getLogger(__name__)

T = TypeVar("T")
Outcome = TokenEvent | EngineFailed


@dataclass(slots=True)
class _Counters:
    prompt_tokens: int = 0
    generation_tokens: int = 0
    steps: int = 0


class TransformersEngine:
    """Continuous batching over a loaded model: see `base.Engine`.

    Raises UnsupportedModel when the model's attention cannot be ours, OutOfMemory when the KV cache does not fit.
    """

    def __init__(self, model: LoadedModel, settings: EngineSettings):
        bytes_per_token = adopt(model)
        capacity = choose_capacity(model, settings, bytes_per_token)
        logger.info("KV cache: %s", capacity)
        cache = KVCache(capacity.sequences, capacity.length)
        self.capacity = capacity
        self._eos = model.eos_token_ids
        self._vocabulary = model.vocabulary_size
        self._slots = SlotPool(capacity.sequences)
        self._scheduler = Scheduler(self._slots, settings.prefill_tokens, settings.prefill_tokens_beside_decodes)
        self._runner = Runner(model.model, cache, model.device)
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._streams: dict[Sequence, SequenceStream] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._counters = _Counters()
        self._failure: EngineFailed | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="modelyard-engine", daemon=True)

    @property
    def max_model_length(self) -> int:
        """Longest prompt plus answer, in tokens."""
        return self.capacity.length

    @property
    def failure(self) -> EngineFailed | None:
        """Why the engine is dead; None while it lives."""
        return self._failure

    def step(self) -> list[tuple[Sequence, Outcome]]:
        """Computes one step: the next token of every sequence whose prompt is read, and more of the prompts that are not."""
        work = self._scheduler.schedule()
        logits = self._runner.forward(work)
        self._scheduler.computed(work)
        sampling = [item.sequence for item in work if item.samples]
        sampled = sample(logits, [sequence.row for sequence in sampling])
        self._count(work)
        return [(sequence, self._advance(sequence, token)) for sequence, token in zip(sampling, sampled, strict=True)]

    def start(self) -> None:
        """Starts the engine's thread; call it on the event loop that will read the streams."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def submit(self, request: GenerationRequest) -> SequenceStream:
        """Queues a request; see `base.Engine.submit`. Raises RequestTooLarge or InvalidTokens."""
        self._check_size(request)
        self._check_tokens(request)
        sequence = Sequence.of(request)
        stream = SequenceStream(partial(self._cancel, sequence))
        if self._failure is not None:
            stream.put(self._failure)
            return stream
        self._streams[sequence] = stream
        self._idle.clear()
        self._inbox.put(partial(self._scheduler.add, sequence))
        return stream

    async def warm_up(self) -> None:
        """Runs prefill and decode steps, alone and batched, greedy and sampled. Raises EngineFailed."""
        requests = warmup_requests(self.capacity, self._vocabulary)
        for stream in [self.submit(request) for request in requests]:
            async for _ in stream:
                pass
        self._counters = _Counters()

    async def drain(self) -> None:
        """Returns when no request is left."""
        await self._idle.wait()

    async def stop(self) -> None:
        """Ends the thread after its step; requests in flight get EngineFailed."""
        self._inbox.put(None)
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join)
        self._die(EngineFailed("the engine was stopped"))

    def stats(self) -> EngineStats:
        """Returns a snapshot."""
        running = len(self._scheduler.running)
        waiting = max(0, len(self._streams) - running)
        return EngineStats(
            running=running,
            waiting=waiting,
            kv_cache_usage=self._scheduler.cached_tokens / (self.capacity.sequences * self.capacity.length),
            prompt_tokens_total=self._counters.prompt_tokens,
            generation_tokens_total=self._counters.generation_tokens,
            steps_total=self._counters.steps,
        )

    def _check_size(self, request: GenerationRequest) -> None:
        prompt, new = len(request.prompt_token_ids), request.sampling.max_tokens
        if not prompt:
            raise RequestTooLarge("the prompt is empty: there is nothing to go on from")
        if prompt + new > self.max_model_length:
            raise RequestTooLarge(
                f"a prompt of {prompt} tokens and {new} new tokens exceed this model's limit of {self.max_model_length} tokens: "
                "shorten the prompt, lower max_tokens, or raise engine.maxModelLength"
            )

    def _check_tokens(self, request: GenerationRequest) -> None:
        for what, ids in (("prompt", request.prompt_token_ids), ("logit_bias", request.sampling.logit_bias or (0,))):
            if min(ids) < 0 or max(ids) >= self._vocabulary:
                raise InvalidTokens(
                    f"{what}: this model's token ids are 0 to {self._vocabulary - 1}, and {min(ids)} to {max(ids)} were given"
                )

    # On the engine's thread.

    def _run(self) -> None:
        try:
            with torch.inference_mode():
                while self._take_calls():
                    self._publish(self.step())
        except Exception as error:
            logger.exception("the engine failed")
            self._tell_loop(self._die, EngineFailed(f"the engine failed: {type(error).__name__}: {error}"))

    def _take_calls(self) -> bool:
        """Carries out what the loop asked for, waiting while there is nothing to step; returns False when asked to end."""
        while not (self._scheduler.busy and self._inbox.empty()):
            call = self._inbox.get()
            if call is None:
                return False
            call()
        return True

    def _advance(self, sequence: Sequence, sampled: Sampled) -> Outcome:
        if sampled.token_id is None:
            self._scheduler.remove(sequence)
            return RequestFailed(sampled.failure)
        sequence.tokens.append(sampled.token_id)
        silent, reason = self._ending(sequence)
        if reason is not None:
            self._scheduler.remove(sequence)
        return TokenEvent(sampled.token_id, reason, sampled.logprob, sampled.top_logprobs, silent)

    def _ending(self, sequence: Sequence) -> tuple[bool, FinishReason | None]:
        """Returns whether the newest token is no text, and why the sequence ends with it; None when it goes on."""
        if ends_text(sequence, self._eos):
            return True, FinishReason.STOP
        constraint = sequence.row.constraint
        if constraint is not None and constraint.accept(sequence.tokens[-1]):
            return False, FinishReason.STOP
        return False, FinishReason.LENGTH if is_full(sequence, self.capacity.length) else None

    def _count(self, work: list[Work]) -> None:
        self._counters.steps += 1
        for item in work:
            prompt = min(item.span.end, item.sequence.prompt_length) - min(item.span.start, item.sequence.prompt_length)
            self._counters.prompt_tokens += prompt
            self._counters.generation_tokens += item.samples

    def _publish(self, outcomes: list[tuple[Sequence, Outcome]]) -> None:
        if outcomes:
            self._tell_loop(self._deliver, outcomes)

    def _tell_loop(self, call: Callable[[T], None], argument: T) -> None:
        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call, argument)

    # On the event loop.

    def _deliver(self, outcomes: list[tuple[Sequence, Outcome]]) -> None:
        for sequence, outcome in outcomes:
            stream = self._streams.get(sequence)
            if stream is None:
                continue
            stream.put(outcome)
            if isinstance(outcome, EngineFailed) or outcome.finish_reason is not None:
                self._forget(sequence)

    def _cancel(self, sequence: Sequence) -> None:
        if sequence in self._streams:
            self._forget(sequence)
            self._inbox.put(partial(self._scheduler.remove, sequence))

    def _forget(self, sequence: Sequence) -> None:
        del self._streams[sequence]
        if not self._streams:
            self._idle.set()

    def _die(self, failure: EngineFailed) -> None:
        self._failure = self._failure or failure
        for sequence, stream in list(self._streams.items()):
            stream.put(self._failure)
            self._forget(sequence)
