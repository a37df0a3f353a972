"""What engines have in common: a thread that computes, streams that the event loop reads, and an end that everybody hears of."""

import asyncio
import logging
import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVar

from modelyard_runtime.engine.base import EngineFailed, SamplingParams
from modelyard_runtime.engine.capacity import Capacity
from modelyard_runtime.engine.core import Outcome, Outcomes
from modelyard_runtime.engine.sequence import Sequence
from modelyard_runtime.engine.stream import SequenceStream
from modelyard_runtime.engine.watchdog import Watchdog

logger = logging.getLogger(__name__)
Told = TypeVar("Told")

#: How long the thread may take to end after its step, beyond the time that a step may take.
_JOIN_SECONDS = 5.0


class ThreadedEngine(ABC, Generic[Told]):
    """The event loop's side of an engine: see `base.Engine`. Its thread hears from the loop by an inbox of ``Told``, and ends at a None."""

    def __init__(self, name: str, capacity: Capacity, step_timeout: float):
        self.capacity = capacity
        self._watchdog = Watchdog(step_timeout, self._stuck)
        self._inbox: queue.SimpleQueue[Told | None] = queue.SimpleQueue()
        self._streams: dict[Sequence, SequenceStream] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._failure: EngineFailed | None = None
        self._on_death: Callable[[EngineFailed], None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def max_model_length(self) -> int:
        """Longest prompt plus answer, in tokens."""
        return self.capacity.length

    @property
    def failure(self) -> EngineFailed | None:
        """Why the engine is dead; None while it lives."""
        return self._failure

    def start(self, on_death: Callable[[EngineFailed], None] | None = None) -> None:
        """Starts the thread; call it on the event loop that will read the streams, and that ``on_death`` is called on."""
        self._loop = asyncio.get_running_loop()
        self._on_death = on_death
        self._watchdog.start(self._loop)
        self._thread.start()

    def check(self, sampling: SamplingParams) -> None:
        """Raises NotHonoured when the engine cannot choose tokens so; most refuse nothing."""

    async def drain(self) -> None:
        """Returns when no request is left."""
        await self._idle.wait()

    async def stop(self) -> None:
        """Ends the thread after its step; requests in flight get EngineFailed. A thread that hangs is left behind."""
        self._end(EngineFailed("the engine was stopped"))
        self._inbox.put(None)
        if self._thread.is_alive() and not self._watchdog.barked:
            await asyncio.to_thread(self._thread.join, self._watchdog.timeout + _JOIN_SECONDS)
        self._watchdog.stop()

    # What engines differ in.

    @abstractmethod
    def _run(self) -> None:
        """The thread."""

    @abstractmethod
    def _joined(self, sequence: Sequence) -> None:
        """Tells the thread of a new request; called on the loop."""

    @abstractmethod
    def _left(self, sequence: Sequence) -> None:
        """Tells the thread that nobody wants a request any more; called on the loop."""

    # On the thread.

    def _tell(self, outcomes: Outcomes) -> None:
        if outcomes:
            self._call_loop(partial(self._deliver, outcomes))

    def _call_loop(self, call: Callable[[], None]) -> None:
        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call)

    # On the event loop.

    def _open(self, sequence: Sequence) -> SequenceStream:
        """Returns what a new request's tokens come by; of a dead engine, the cause of its death does."""
        stream = SequenceStream(partial(self._cancel, sequence))
        if self._failure is not None:
            stream.put(self._failure)
        else:
            self._streams[sequence] = stream
            self._idle.clear()
            self._joined(sequence)
        return stream

    def _deliver(self, outcomes: Outcomes) -> None:
        for sequence, outcome in outcomes:
            stream = self._streams.get(sequence)
            if stream is not None:
                stream.put(outcome)
                if is_last(outcome):
                    self._forget(sequence)

    def _cancel(self, sequence: Sequence) -> None:
        if sequence in self._streams:
            self._forget(sequence)
            self._left(sequence)

    def _forget(self, sequence: Sequence) -> None:
        del self._streams[sequence]
        if not self._streams:
            self._idle.set()

    def _stuck(self) -> None:
        self._die(EngineFailed(f"a step of the engine did not end within {self._watchdog.timeout:g} s"))

    def _die(self, failure: EngineFailed) -> None:
        """The engine cannot go on: says so to everybody."""
        if self._failure is None:
            logger.error("the engine is dead: %s", failure)
            self._end(failure)
            if self._on_death is not None:
                self._on_death(failure)

    def _end(self, failure: EngineFailed) -> None:
        self._failure = self._failure or failure
        for sequence, stream in list(self._streams.items()):
            stream.put(self._failure)
            self._forget(sequence)


def is_last(outcome: Outcome) -> bool:
    """Whether nothing follows it."""
    return isinstance(outcome, EngineFailed) or outcome.finish_reason is not None
