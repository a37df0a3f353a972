"""What engines have in common that answer one request at a time, on a thread of their own, by code that may be anybody's.

A request that fails does so alone, while the model still computes: that is proved anew after each failure.
"""

import logging
from abc import abstractmethod
from functools import partial

from modelyard_runtime.engine.base import EngineFailed, EngineStats, GenerationRequest, MediaUnsupported, RequestFailed, UnknownAdapter
from modelyard_runtime.engine.blocks import blocks_for
from modelyard_runtime.engine.capacity import Capacity
from modelyard_runtime.engine.checks import check_size, check_tokens
from modelyard_runtime.engine.core import Outcome
from modelyard_runtime.engine.counts import Counts
from modelyard_runtime.engine.sequence import Sequence
from modelyard_runtime.engine.settings import EngineSettings
from modelyard_runtime.engine.stream import SequenceStream
from modelyard_runtime.engine.threaded import ThreadedEngine, is_last
from modelyard_runtime.errors import OutOfMemory, UnsupportedModel
from modelyard_runtime.hardware import is_out_of_memory
from modelyard_runtime.models.loading import LoadedModel

logger = logging.getLogger(__name__)

#: Longest prompt plus answer without a setting: what a token takes in memory is the model's own affair here.
_LONGEST = 8192
#: Requests in a row that may break the model's code; one more is the end.
_FAILURES = 3


class SingleEngine(ThreadedEngine[Sequence]):
    """One request after another over a model that was loaded plain: see `base.Engine`. It has no adapters, and reads no images."""

    def __init__(self, name: str, model: LoadedModel, settings: EngineSettings):
        length = min(settings.max_model_length or _LONGEST, model.context_length)
        super().__init__(name, Capacity(1, length, blocks_for(length), 1, 0), settings.step_timeout)
        self._model = model
        self._counts = Counts()
        self._running = False
        self._failures = 0

    @property
    def adapter_names(self) -> tuple[str, ...]:
        """None: adapters need the batching engine."""
        return ()

    def submit(self, request: GenerationRequest) -> SequenceStream:
        """Queues a request; see `base.Engine.submit`, which raises what this raises."""
        self.check(request.sampling)
        check_size(request, self.max_model_length)
        check_tokens(request, self._model.vocabulary_size)
        if request.lora is not None:
            raise UnknownAdapter(
                f"adapter {request.lora!r}: this model runs outside of the batching engine, where adapters cannot be applied"
            )
        if request.media is not None:
            raise MediaUnsupported("this model runs outside of the batching engine, where images cannot be read: send text only")
        return self._open(Sequence.of(request))

    async def warm_up(self) -> None:
        """Generates a few tokens, in each of the ways that `_warmth` names. Raises EngineFailed."""
        for request in self._warmth():
            async for _ in self.submit(request):
                pass
        self._counts.clear()

    def stats(self) -> EngineStats:
        """Returns a snapshot; the cache is the model's own, and its use is not known."""
        return self._counts.stats(int(self._running), len(self._streams))

    # What engines differ in.

    @abstractmethod
    def _warmth(self) -> list[GenerationRequest]:
        """Returns short requests that take every path."""

    @abstractmethod
    def _compute(self, sequence: Sequence) -> None:
        """Answers a request, telling `_publish` what comes of it, while it is `_wanted`; on the thread, watched. Raises anything."""

    @abstractmethod
    def _prove(self) -> None:
        """Shows that the model computes. Raises UnsupportedModel or OutOfMemory when it does not."""

    # On the engine's thread. A sequence is wanted as long as it has a stream.

    def _run(self) -> None:
        while (sequence := self._inbox.get()) is not None:
            if self._wanted(sequence) and not sequence.context.run(self._answer, sequence):
                return

    def _wanted(self, sequence: Sequence) -> bool:
        return sequence in self._streams

    def _answer(self, sequence: Sequence) -> bool:
        """Generates an answer; returns whether the model can go on."""
        self._running = True
        try:
            with self._watchdog.watching():
                self._compute(sequence)
        except RequestFailed as failure:
            self._tell([(sequence, failure)])
        except Exception as error:  # noqa: BLE001 - the model's code may be anybody's
            return self._recover(sequence, error)
        finally:
            self._running = False
        self._failures = 0
        return True

    def _recover(self, sequence: Sequence, error: Exception) -> bool:
        """Fails the request; returns whether the model still computes."""
        if is_out_of_memory(error):
            logger.warning("a request ran out of memory: %s", error)
            failure: EngineFailed = RequestFailed(
                f"memory ran out at token {len(sequence.tokens)} of this request, which was computed alone"
            )
            self._tell([(sequence, failure)])
            return True
        logger.error("a request failed in the model", exc_info=error)
        failure = EngineFailed(f"the engine failed: {type(error).__name__}: {error}")
        self._tell([(sequence, failure)])
        self._failures += 1
        if not self._computes():
            self._failures = _FAILURES + 1
        if self._failures > _FAILURES:
            self._call_loop(partial(self._die, failure))
            return False
        self._counts.restarts += 1
        return True

    def _computes(self) -> bool:
        """Whether the proof still succeeds."""
        try:
            with self._watchdog.watching():
                self._prove()
        except (UnsupportedModel, OutOfMemory):
            logger.exception("the model does not compute any more")
            return False
        return True

    def _publish(self, sequence: Sequence, outcome: Outcome) -> None:
        """Tells of a token, which is the last of ``sequence.tokens`` already."""
        self._watchdog.touch()
        self._counts.steps += 1
        read = sequence.prompt_length if sequence.generated <= 1 else 0
        made = int(not isinstance(outcome, EngineFailed) and outcome.token_id is not None)
        self._counts.prompt_tokens += read
        self._counts.generation_tokens += made
        self._counts.sized(read + made)
        self._running = not is_last(outcome)
        self._tell([(sequence, outcome)])

    # On the event loop.

    def _joined(self, sequence: Sequence) -> None:
        self._inbox.put(sequence)

    def _left(self, sequence: Sequence) -> None:
        """The thread looks for the stream as it computes."""
