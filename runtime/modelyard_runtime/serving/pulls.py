"""Pulls in the background: a few at a time, with progress, cancelled on demand, and taken up again after a restart."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

from modelyard.api.errors import Unavailable

from modelyard_runtime.errors import Crashed, DownloadFailed, RuntimeFailed
from modelyard_runtime.progress import Step, Stopped
from modelyard_runtime.serving.catalogue import MOST_MODELS, Entry
from modelyard_runtime.serving.jobs import KEPT, Job, JobStore, State, StoreTaken
from modelyard_runtime.serving.loading import fetch
from modelyard_runtime.serving.registry import Registry
from modelyard_runtime.serving.specs import spec_of
from modelyard_runtime.serving.threads import on_thread
from modelyard_runtime.settings import ServeSettings
from modelyard_runtime.sources.resolve import remove, shares
from modelyard_runtime.sources.source import parse

logger = logging.getLogger(__name__)

_SAVED_EVERY = 1.0
_SHOWN_EVERY = 0.2
_MOST_OPEN = 100

T = TypeVar("T")


class NotAllowed(Exception):
    """The source is not one that may be pulled."""


def check_source(source: str, settings: ServeSettings) -> None:
    """Raises ArgumentsInvalid on a source that cannot be, NotAllowed on one that --allow-pull does not name."""
    parse(source)  # sources that go up again, out of what a pattern allows, end here
    if not any(fnmatchcase(source, pattern) for pattern in settings.allow_pull):
        raise NotAllowed


class Pulls:
    """Used from one event loop. The file is opened when it is needed first, or when an earlier process left one."""

    def __init__(self, settings: ServeSettings, registry: Registry):
        self._settings = settings
        self._registry = registry
        self._path = (settings.state_dir or settings.cache_dir / "state") / "jobs.sqlite"
        self._worker = ThreadPoolExecutor(1, "jobs")
        self._opening = asyncio.Lock()
        self._store: JobStore | None = None
        self._jobs: dict[str, Job] = {}
        self._stops: dict[str, threading.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._room = asyncio.Semaphore(settings.max_pulls)
        self._removing = asyncio.Lock()

    async def resume(self) -> None:
        """Takes up what an earlier process left: its models, and pulls that had not ended."""
        if not await asyncio.to_thread(self._path.is_file):
            return
        try:
            await self._opened()
        except Unavailable as error:
            logger.warning("pulls are not available", extra={"cause": error.message})

    async def create(self, entry: Entry, *, serve: bool) -> tuple[Job, bool]:
        """Returns the job that pulls an entry's source, and whether it is new. Its adapters are fetched when it is loaded.

        Raises ArgumentsInvalid on a source that cannot be, an adapter's too, NotAllowed, ValueError when the name is taken, or Unavailable.
        """
        for source in (entry.source, *(adapter.partition("=")[2] for adapter in entry.adapter)):
            check_source(source, self._settings)
        spec = spec_of(entry, self._settings, "pull")
        await self._opened()
        name = spec.name if serve else None
        same = next((job for job in self._jobs.values() if job.open and (job.source, job.name) == (entry.source, name)), None)
        if same is not None:
            return same, False
        taken = self._registry.find(*spec.names)
        if serve and taken and taken.spec.settings.source != entry.source:
            raise ValueError(taken.name)
        if serve and not taken and len(self._registry.models) >= MOST_MODELS:
            raise Unavailable(f"This server has {MOST_MODELS} models, which is the limit. Remove some of those that were pulled.")
        if sum(job.open for job in self._jobs.values()) >= _MOST_OPEN:
            raise Unavailable(f"{_MOST_OPEN} pulls are open, which is the limit. Cancel some, or try again later.", retry_after=60)
        job = Job(entry.source, name, entry.model_dump(mode="json", exclude_unset=True))
        self._jobs[job.id] = job
        try:
            await self._ask(lambda store: store.save(job))
        except Unavailable:
            del self._jobs[job.id]
            raise
        self._forget_old()
        self._begin(job)
        return job, True

    async def all(self) -> list[Job]:
        """Returns all pulls, the oldest first."""
        if self._store is None and not await asyncio.to_thread(self._path.is_file):
            return []
        await self._opened()
        return list(self._jobs.values())

    async def get(self, identity: str) -> Job | None:
        """Returns a pull, or None."""
        await self.all()
        return self._jobs.get(identity)

    async def cancel(self, job: Job) -> Job:
        """Ends a pull; what was fetched stays for the next attempt. One that has ended, or has all, stays as it is.

        Its thread may notice later, where the other side is silent; until then it keeps its place among those at once.
        """
        task, stop = self._tasks.get(job.id), self._stops.get(job.id)
        if task is not None and stop is not None:
            if self._jobs[job.id].state is State.QUEUED:
                task.cancel()
            stop.set()
            await self._keep(self._jobs[job.id].now(state=State.CANCELLED))
        elif task is not None:
            await asyncio.wait({task})
        return self._jobs[job.id]

    async def follow(self, job: Job) -> AsyncIterator[Job]:
        """Yields a pull whenever it has changed, until it has ended."""
        shown = None
        while True:
            job = self._jobs.get(job.id, job)
            if job != shown:
                yield job
                shown = job
            if not job.open:
                return
            await asyncio.sleep(_SHOWN_EVERY)

    async def remove(self, source: str) -> None:
        """Removes what the cache holds of a source, unless a pull of it goes on, which would miss it; one that comes waits."""
        cache = self._settings.cache_dir
        if any(job.open and shares(job.source, source, cache) for job in self._jobs.values()):
            return
        async with self._removing:
            await asyncio.to_thread(remove, source, cache)

    async def forget_model(self, name: str) -> None:
        """Makes the process not know a pulled model any more after its next start."""
        if self._store is not None:
            await self._ask(lambda store: store.remove_model(name))

    async def remember_model(self, name: str, entry: dict[str, Any]) -> None:
        """Makes the process know a model after its next start too."""
        await self._opened()
        await self._ask(lambda store: store.add_model(name, entry))

    async def stop(self) -> None:
        """Ends what goes on; the next process takes it up again."""
        for stop in self._stops.values():
            stop.set()
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=_SAVED_EVERY)
        if self._store is not None:
            await self._ask(lambda store: store.close())
        self._worker.shutdown(wait=False)

    def _forget_old(self) -> None:
        """Forgets, as the file does, the oldest of too many that have ended."""
        ended = [identity for identity, job in self._jobs.items() if not job.open]
        for identity in ended[:-KEPT]:
            del self._jobs[identity]

    def _begin(self, job: Job) -> None:
        self._stops[job.id] = threading.Event()
        self._tasks[job.id] = asyncio.create_task(self._run(job.id))

    async def _run(self, identity: str) -> None:
        try:
            async with self._room:
                await self._pull(identity)
        finally:
            self._tasks.pop(identity, None)
            self._stops.pop(identity, None)

    async def _pull(self, identity: str) -> None:
        stop = self._stops[identity]
        job = self._jobs[identity].now(state=State.RUNNING, reason=None, message=None, remedy=None)
        await self._keep(job)
        saving = asyncio.create_task(self._save_progress(identity))
        try:
            outcome = await self._fetched(job, stop)
        finally:
            saving.cancel()
        if self._jobs[identity].state is State.CANCELLED:  # so it was told, and so it stays
            outcome = self._jobs[identity]
        await self._keep(outcome)
        logger.info("pull ended", extra={"pull": job.id, "source": job.source, "state": outcome.state, "cause": outcome.message})

    async def _fetched(self, job: Job, stop: threading.Event) -> Job:
        def report(step: Step) -> None:
            if stop.is_set():
                raise Stopped
            self._jobs[job.id] = self._jobs[job.id].now(phase=str(step.phase), bytes_done=step.bytes_done, bytes_total=step.bytes_total)

        settings = self._settings
        try:
            async with self._removing:
                pass
            await on_thread(lambda: fetch(job.source, settings, report))
            if self._stops.pop(job.id).is_set():  # past this it is not cancelled any more
                raise Stopped
            if job.name is not None:
                await self._serve(job)
            return self._jobs[job.id].now(state=State.DONE)
        except Stopped:
            return self._jobs[job.id].now(state=State.QUEUED)
        except RuntimeFailed as error:
            failure = error
        except Unavailable as error:
            failure = DownloadFailed(f"the model is there, and cannot be remembered: {error.message}", "make room there, and pull again")
        except Exception as error:
            logger.exception("a pull failed")
            failure = Crashed(f"{type(error).__name__}: {error}")
        return self._jobs[job.id].now(state=State.FAILED, reason=failure.reason, message=failure.message, remedy=failure.remedy)

    async def _serve(self, job: Job) -> None:
        """Makes a pulled model one that may be asked for, now and after a restart."""
        entry = Entry.model_validate(job.options)
        spec = spec_of(entry, self._settings, "pull")
        if self._registry.find(*spec.names) is None:
            self._registry.add(spec)
        await self._ask(lambda store: store.add_model(spec.name, job.options))

    async def _save_progress(self, identity: str) -> None:
        while True:
            await asyncio.sleep(_SAVED_EVERY)
            await self._keep(self._jobs[identity])

    async def _keep(self, job: Job) -> None:
        """Notes how a pull stands. Where that cannot be saved, as on a full disk, it is so all the same until the process ends."""
        self._jobs[job.id] = job
        try:
            await self._ask(lambda store: store.save(job))
        except Unavailable as error:
            logger.warning("how a pull stands is not saved", extra={"pull": job.id, "cause": error.message})

    async def _opened(self) -> None:
        """Opens the file once. Raises Unavailable, saying what to do, when it cannot be had."""
        async with self._opening:
            if self._store is not None:
                return
            self._store, jobs, models = await self._tried(lambda: _load(self._path))
            self._jobs = {job.id: job for job in jobs}
            for entry in models:
                self._recall(entry)
            for job in jobs:
                if job.open:
                    self._jobs[job.id] = job.now(state=State.QUEUED)
                    self._begin(self._jobs[job.id])

    def _recall(self, options: dict[str, Any]) -> None:
        """Adds a model of an earlier process; one that this version cannot have is left out, and told."""
        try:
            spec = spec_of(Entry.model_validate(options), self._settings, "pull")
        except (ValueError, RuntimeFailed) as error:
            logger.warning("a pulled model is left out", extra={"source": options.get("source"), "cause": str(error)})
            return
        if self._registry.find(*spec.names) is None:
            self._registry.add(spec)

    async def _ask(self, work: Callable[[JobStore], T]) -> T:
        store = self._store
        assert store is not None
        return await self._tried(lambda: work(store))

    async def _tried(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._worker, work)
        except StoreTaken:
            cause = f"another server has {self._path} open. Send pulls there, or start this one with a --state-dir of its own."
        except (OSError, sqlite3.Error) as error:
            cause = f"{self._path} cannot be used: {error}. Name another folder with --state-dir."
        raise Unavailable(f"Pulls are not available: {cause}", code="pulls_unavailable")


def _load(path: Path) -> tuple[JobStore, list[Job], list[dict[str, Any]]]:
    store = JobStore(path)
    return store, store.jobs(), store.models()
