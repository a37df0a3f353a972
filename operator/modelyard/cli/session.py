"""One `modelyard up` from its start to its end: serve, ask, stay, drain."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from modelyard.api.reasons import BLOCKING, Reason
from modelyard.cli import client, hints
from modelyard.cli.screen import LiveScreen, PlainScreen, Screen
from modelyard.controller.types import Key
from modelyard.local import project
from modelyard.local.container import Mounts
from modelyard.local.devices import Devices, visible
from modelyard.local.errors import LocalFailed
from modelyard.local.loop import News, Yard, yard
from modelyard.local.meters import Meters
from modelyard.local.model import Seen
from modelyard.local.pod import Host
from modelyard.local.project import Project
from modelyard.local.state import Instance, State

_INTERRUPTED = 130
#: A first answer ends after so many pieces, about as many tokens: small models may ramble on.
_ANSWER_PIECES = 512


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asked for. ``port`` is None for any."""

    files: tuple[Path, ...]
    ask: str | None
    once: bool
    address: str
    port: int | None
    watch: bool
    mounts: Mounts
    state: State
    cache_dir: Path


def run(options: Options) -> int:
    """Runs a session and returns its exit code; raises LocalFailed."""
    loaded = project.load(options.files)
    screen: Screen = LiveScreen() if sys.stdout.isatty() and not options.once else PlainScreen()
    with options.state.own(), screen:
        return asyncio.run(Session(options, loaded, screen).run())


class Session:
    """The parts of a running session."""

    def __init__(self, options: Options, loaded: Project, screen: Screen):
        self._options, self._project, self._screen = options, loaded, screen
        self._seen: Sequence[Seen] = ()
        self._stepped = asyncio.Condition()
        self._stop, self._hurry = asyncio.Event(), asyncio.Event()
        self._pending: set[asyncio.Task[None]] = set()
        self._ready = self._unpublished = False

    async def run(self) -> int:
        """Serves until the work is done or a signal comes, and returns the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._signalled)
        longest = max(model.spec.rollout.drain_timeout for model in self._project.models.values())
        async with self._host() as host, yard(host, self._options.address, self._options.port, drain=longest, on_step=self._step) as served:
            self._announce(served)
            served.apply(self._project.models)
            code = await self._serve(host, served)
            await self._end(served)
            return code

    @contextlib.asynccontextmanager
    async def _host(self) -> AsyncIterator[Host]:
        options = self._options
        needs_devices = any(model.spec.resources.gpu.count for model in self._project.models.values())
        found = await asyncio.to_thread(visible) if needs_devices or options.watch else ()
        async with aiohttp.ClientSession() as session:
            yield Host(session, Devices(found), options.mounts, dict(os.environ), options.cache_dir, options.state.logs)

    async def _serve(self, host: Host, served: Yard) -> int:
        """Runs the session's tasks until one of those that decide its end has ended."""
        meters = Meters(host.session, served.private_url, lambda: self._seen)
        self._screen.rates = meters.rate
        work = asyncio.create_task(self._work(served), name="work")
        stop = asyncio.create_task(self._stop.wait(), name="stop")
        beside = [asyncio.create_task(served.ended(), name="yard")]
        if self._options.watch:
            beside.append(asyncio.create_task(self._follow_files(served), name="files"))
        if isinstance(self._screen, LiveScreen):
            beside.append(asyncio.create_task(meters.run(), name="meters"))
        try:
            await asyncio.wait({work, stop, *beside}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            tasks = [task for task in (work, stop, *beside) if not task.done()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in beside:
            if not task.cancelled():
                task.result()
        if not work.cancelled():
            return work.result()
        return 0 if self._ready and not self._options.once else _INTERRUPTED

    async def _work(self, served: Yard) -> int:
        """Asks the question, tells how to go on, and stays."""
        options = self._options
        if options.ask is not None:
            await self._ask(served.url, options.ask)
        else:
            await self._until_settled(fail=options.once)
        self._ready = True
        if options.once:
            return 0
        name = next((one.model.metadata.name for one in self._seen if _may_chat(one)), None)
        self._screen.say(hints.how_to_call(served.url, name, hints.chat_program(options.state)))
        await asyncio.Event().wait()
        return 0

    async def _ask(self, url: str, text: str) -> None:
        model = await self._first_chat_model()
        self._screen.begin_answer(text)
        try:
            messages = [{"role": "user", "content": text}]
            async with contextlib.aclosing(client.stream_chat(url, str(model), messages, temperature=0.0)) as answer:
                pieces = 0
                async for piece in answer:
                    self._screen.answer(piece)
                    if (pieces := pieces + 1) == _ANSWER_PIECES:
                        break
        finally:
            self._screen.end_answer()

    async def _first_chat_model(self) -> Key:
        """Returns the first model in the files that can chat, once it answers; raises LocalFailed with the cause when it cannot start."""
        for key in list(self._project.models):
            seen = await self._settled(key)
            if seen is not None and _may_chat(seen):
                if _cause(seen):
                    raise LocalFailed(f"{seen.model.metadata.name}: {_cause(seen)}")
                return key
        raise LocalFailed("no model here can chat", "Leave --ask out, or add a chat model such as builtin://smollm2-135m-instruct")

    async def _until_settled(self, *, fail: bool) -> None:
        for key in list(self._project.models):
            seen = await self._settled(key)
            if fail and seen is not None and (cause := _cause(seen)):
                raise LocalFailed(f"{seen.model.metadata.name}: {cause}")

    async def _settled(self, key: Key) -> Seen | None:
        """Returns a model when it is known whether it answers; None when it is gone."""
        async with self._stepped:
            while True:
                seen = {one.key: one for one in self._seen}
                if seen and key not in seen:
                    return None
                if key in seen and (seen[key].ready.status == "True" or _cause(seen[key])):
                    return seen[key]
                await self._stepped.wait()

    async def _follow_files(self, served: Yard) -> None:
        try:
            await self._apply_changes(served)
        except (OSError, RuntimeError) as problem:  # such as no watch left to be had from the kernel
            self._screen.problem(f"Manifests are not watched any more: {problem}. Start again to apply changes.")
            await asyncio.Event().wait()

    async def _apply_changes(self, served: Yard) -> None:
        async for _ in project.changes(self._project):
            before = self._project
            self._project = project.reload(before)
            for problem in self._project.problems:
                self._screen.problem(f"{problem}\nWhat was there before stays in force.")
            if self._project.files != before.files:
                served.apply(self._project.models)

    async def _end(self, served: Yard) -> None:
        """Drains; a second signal ends everything at once."""
        self._screen.stopping()
        drain = asyncio.create_task(served.drain(), name="drain")
        hurry = asyncio.create_task(self._hurry.wait(), name="hurry")
        await asyncio.wait({drain, hurry}, return_when=asyncio.FIRST_COMPLETED)
        for task in (drain, hurry):
            task.cancel()
        await asyncio.gather(drain, hurry, return_exceptions=True)
        await served.kill()

    def _announce(self, served: Yard) -> None:
        files = tuple(map(str, self._project.paths))
        self._options.state.announce(Instance(os.getpid(), served.url, served.private_url, time.time(), files))
        self._screen.serving(served.url)
        self._yard = served

    def _step(self, seen: Sequence[Seen], news: Sequence[News]) -> None:
        self._seen = seen
        self._publish()
        self._screen.step(seen, news)
        task = asyncio.get_running_loop().create_task(self._tell())
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    def _publish(self) -> None:
        """Writes what other commands show. That it cannot be written, as on a full disk, is told once and stops no model."""
        try:
            self._options.state.publish(self._yard.manifests())
            self._unpublished = False
        except LocalFailed as failure:
            if not self._unpublished:
                self._screen.problem(f"`modelyard get` shows what was before: {failure}")
            self._unpublished = True

    async def _tell(self) -> None:
        async with self._stepped:
            self._stepped.notify_all()

    def _signalled(self) -> None:
        (self._hurry if self._stop.is_set() else self._stop).set()


def _may_chat(seen: Seen) -> bool:
    known = seen.model.status.capabilities or [capability.value for capability in seen.model.spec.model.capabilities]
    return "chat" in (known or ["chat"])


def _cause(seen: Seen) -> str | None:
    """Returns why a model cannot answer until somebody acts, or None. Holding a name back from it does not keep it from answering."""
    ready = seen.ready
    blocked = ready.status == "False" and ready.reason in BLOCKING and ready.reason != Reason.NAME_CONFLICT
    return f"{ready.reason}: {ready.message}" if blocked else None
