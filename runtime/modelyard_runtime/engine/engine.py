"""The engine over a Transformers causal LM: a thread that steps, and streams that the event loop reads.

The thread owns `core.Core`; the loop talks to it by an inbox of calls, and hears from it once per step. When a step fails, the requests in
flight are told, and the engine begins anew with the same weights if these still compute; when that fails too, happens too often, or a
step does not end, it is dead, and says so.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial

import torch

from modelyard_runtime.engine.base import EngineFailed, EngineStats, GenerationRequest, UnknownAdapter
from modelyard_runtime.engine.blocks import BLOCK, blocks_for
from modelyard_runtime.engine.capacity import choose_capacity
from modelyard_runtime.engine.checks import check_size, check_tokens
from modelyard_runtime.engine.core import Core, Outcomes
from modelyard_runtime.engine.lora import Adapter, Adapters, targets_of
from modelyard_runtime.engine.probe import adopt
from modelyard_runtime.engine.sequence import Sequence
from modelyard_runtime.engine.settings import EngineSettings
from modelyard_runtime.engine.storage import page_of
from modelyard_runtime.engine.stream import SequenceStream
from modelyard_runtime.engine.threaded import ThreadedEngine, is_last
from modelyard_runtime.engine.warmup import warmup_requests
from modelyard_runtime.models.loading import LoadedModel

logger = logging.getLogger(__name__)

#: Restarts in so many seconds that are put up with; one more is the end.
_RESTARTS = 3
_RESTARTS_SECONDS = 600.0


class TransformersEngine(ThreadedEngine[Callable[[], None]]):
    """Continuous batching over a loaded model: see `base.Engine`.

    Raises UnsupportedModel when the model's attention cannot be ours, OutOfMemory when the KV cache does not fit.
    """

    def __init__(self, model: LoadedModel, settings: EngineSettings):
        page = page_of(settings, model.device)
        capacity = choose_capacity(model, settings, adopt(model, page), page)
        logger.info("KV cache: %s", capacity)
        super().__init__("modelyard-engine", capacity, settings.step_timeout)
        self.adapters = Adapters(targets_of(model.model), model.device, model.dtype)
        self._core = Core(model, settings, capacity)
        self._vocabulary = model.vocabulary_size
        self._known: set[Sequence] = set()
        self._restarts: deque[float] = deque(maxlen=_RESTARTS)
        self._warm = asyncio.Event()

    @property
    def adapter_names(self) -> tuple[str, ...]:
        """Names of the adapters that requests may ask for, sorted."""
        return tuple(sorted(self.adapters.loaded))

    def submit(self, request: GenerationRequest) -> SequenceStream:
        """Queues a request; see `base.Engine.submit`. Raises RequestTooLarge, InvalidTokens or UnknownAdapter."""
        check_size(request, self.max_model_length)
        check_tokens(request, self._vocabulary)
        assert blocks_for(len(request.prompt_token_ids) + request.sampling.max_tokens) <= self.capacity.blocks
        return self._open(Sequence.of(request, self._adapter(request.lora)))

    async def warm_up(self) -> None:
        """Runs prefill and decode steps, alone and batched, greedy and sampled. Raises EngineFailed."""
        requests = warmup_requests(self.capacity, self._vocabulary)
        for stream in [self.submit(request) for request in requests]:
            async for _ in stream:
                pass
        self._inbox.put(self._forget_warm_up)
        await self._warm.wait()

    def stats(self) -> EngineStats:
        """Returns a snapshot."""
        scheduler = self._core.scheduler
        return replace(
            self._core.counts.stats(len(scheduler.running), len(self._streams)),
            kv_cache_usage=self._core.usage,
            block_size=BLOCK,
            blocks=self.capacity.blocks,
            max_adapters=len(self.adapters.loaded),
            running_adapters=_adapters_of(scheduler.running),
            waiting_adapters=_adapters_of(scheduler.waiting),
        )

    def _adapter(self, name: str | None) -> Adapter | None:
        adapter = None if name is None else self.adapters.loaded.get(name)
        if name is not None and adapter is None:
            raise UnknownAdapter(f"this engine has no adapter {name!r}")
        return adapter

    # On the engine's thread.

    def _run(self) -> None:
        with torch.inference_mode():
            while self._take_calls():
                try:
                    with self._watchdog.watching():
                        self._publish(self._core.step())
                except Exception as error:
                    logger.exception("a step of the engine failed")
                    if not self._begin_anew(error):
                        return

    def _take_calls(self) -> bool:
        """Carries out what the loop asked for, waiting while there is nothing to step; returns False when asked to end."""
        while not (self._core.busy and self._inbox.empty()):
            call = self._inbox.get()
            if call is None:
                return False
            call()
        return self._failure is None

    def _add(self, sequence: Sequence) -> None:
        self._known.add(sequence)
        self._core.scheduler.add(sequence)

    def _drop(self, sequence: Sequence) -> None:
        self._known.discard(sequence)
        self._core.scheduler.remove(sequence)

    def _forget_warm_up(self) -> None:
        self._core.forget()
        self._call_loop(self._warm.set)

    def _publish(self, outcomes: Outcomes) -> None:
        self._known.difference_update(sequence for sequence, outcome in outcomes if is_last(outcome))
        self._tell(outcomes)

    def _begin_anew(self, cause: Exception) -> bool:
        """Fails what is in flight and starts over, if the model still computes; returns whether it does."""
        failure = EngineFailed(f"the engine failed: {type(cause).__name__}: {cause}")
        self._publish([(sequence, failure) for sequence in self._known])
        now = time.monotonic()
        if len(self._restarts) == _RESTARTS and now - self._restarts[0] < _RESTARTS_SECONDS:
            self._call_loop(partial(self._die, failure))
            return False
        self._restarts.append(now)
        try:
            self._core.reset()
            with self._watchdog.watching():
                self._core.self_test()
        except Exception:
            logger.exception("the engine does not work after a restart either")
            self._call_loop(partial(self._die, failure))
            return False
        self._core.counts.restarts += 1
        logger.warning("the engine was restarted with an empty cache")
        return True

    # On the event loop.

    def _joined(self, sequence: Sequence) -> None:
        self._inbox.put(partial(self._add, sequence))

    def _left(self, sequence: Sequence) -> None:
        self._inbox.put(partial(self._drop, sequence))

    def _end(self, failure: EngineFailed) -> None:
        self._warm.set()
        super()._end(failure)


def _adapters_of(sequences: Collection[Sequence]) -> tuple[str, ...]:
    """Returns the adapters that sequences use. The engine's thread changes the collection; copying it is one step of the interpreter."""
    return tuple(sorted({sequence.adapter.name for sequence in tuple(sequences) if sequence.adapter is not None}))
