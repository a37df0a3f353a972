"""The process: two servers on one event loop, from listening to the last drained request.

It listens first and loads then, so that probes and `modelyard up` can tell a slow start from a dead one.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import uvicorn
import uvloop
from modelyard.process import open_files
from starlette.types import ASGIApp

from modelyard_runtime import logs
from modelyard_runtime.api.app import private_app, public_app
from modelyard_runtime.errors import ArgumentsInvalid, RuntimeFailed
from modelyard_runtime.hardware import threads_of_the_loop
from modelyard_runtime.serving.protocol import BoundedProtocol, Doors
from modelyard_runtime.serving.runtime import Runtime
from modelyard_runtime.serving.threads import work_goes_on
from modelyard_runtime.settings import ServeSettings

logger = logging.getLogger(__name__)

_BACKLOG = 2048
_KEEP_ALIVE_SECONDS = 75
#: For the last answers of a process that failed.
_FLUSH_SECONDS = 5.0
#: The shortest time in which connections that nobody uses are closed.
_CLOSING_SECONDS = 0.2
#: What is answered on connections beyond the most that there may be: what probes and monitors ask for.
_SPARED = frozenset({b"/health", b"/ready", b"/metrics", b"/progress"})
#: Connections to the private port, which few have a reason to ask.
_PRIVATE_CONNECTIONS = 256


class Server(uvicorn.Server):
    """A uvicorn server on a socket that is open already; signals are the process's, not its own."""

    def __init__(self, app: ASGIApp, listener: socket.socket, stall_timeout: float, connections: int):
        super().__init__(
            uvicorn.Config(
                app,
                http=partial(BoundedProtocol, stall_timeout=stall_timeout, doors=Doors(connections, _SPARED)),  # type: ignore[arg-type]
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                backlog=_BACKLOG,
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            )
        )
        self.listener = listener

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self.listener.getsockname()[1])

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals alone."""
        yield

    async def run_until_told(self) -> None:
        """Serves until `tell`."""
        await self.serve(sockets=[self.listener])

    def tell(self, seconds: float) -> None:
        """Tells it to end: answers that have not been written within so many seconds are cut off."""
        self.config.timeout_graceful_shutdown = max(seconds, _CLOSING_SECONDS)  # type: ignore[assignment]
        self.should_exit = True


class Signals:
    """SIGTERM and SIGINT as events: the first asks to drain, the second to end at once."""

    def __init__(self) -> None:
        self.told = asyncio.Event()
        self.insisted = asyncio.Event()
        self.settle = True

    def __call__(self, number: int) -> None:
        """A signal came. After Ctrl-C nobody needs time to look away."""
        self.settle = number != signal.SIGINT
        (self.insisted if self.told.is_set() else self.told).set()

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Listens for the signals."""
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGTERM, signal.SIGINT)
        for number in numbers:
            loop.add_signal_handler(number, self, number)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)


def run(settings: ServeSettings) -> None:
    """Serves until SIGTERM or SIGINT. Raises RuntimeFailed with the cause when the model cannot be served."""
    logs.configure(settings.log_level)
    open_files.take_all()

    async def main() -> RuntimeFailed | None:
        signals = Signals()
        with signals.installed():
            return await serve(settings, signals)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        failure = runner.run(main())
    if failure is not None:
        raise failure
    if work_goes_on():
        # Told to end while PyTorch is being imported or weights are read, which cannot be interrupted; the interpreter
        # must not be torn down under a thread that is inside native code.
        sys.stderr.flush()
        os._exit(0)


async def serve(
    settings: ServeSettings, signals: Signals, *, on_listening: Callable[[int, int], None] | None = None
) -> RuntimeFailed | None:
    """Serves until a signal, or until the model cannot be served, and returns the cause of that.

    ``on_listening`` gets the two ports. Raises ArgumentsInvalid when one is taken.
    """
    threads = ThreadPoolExecutor(threads_of_the_loop(), thread_name_prefix="loop")
    asyncio.get_running_loop().set_default_executor(threads)
    runtime = Runtime(settings)
    stall = settings.stall_timeout.total_seconds()
    public = Server(public_app(runtime), listen(settings.host, settings.port, "--port"), stall, _affordable(settings.max_connections))
    private = Server(private_app(runtime), listen(settings.host, settings.metrics_port, "--metrics-port"), stall, _PRIVATE_CONNECTIONS)
    serving = [asyncio.create_task(server.run_until_told()) for server in (public, private)]
    names = [model.name for model in runtime.registry.models]
    logger.info("listening", extra={"port": public.port, "metricsPort": private.port, "models": names})
    if on_listening is not None:
        on_listening(public.port, private.port)
    starting = asyncio.create_task(runtime.run())
    await _first(signals.told, runtime.ended)
    left = await _drain(runtime, signals) if runtime.failure is None else _FLUSH_SECONDS
    starting.cancel()
    for server in (public, private):
        server.tell(left)
    await asyncio.wait([*serving, starting])
    await runtime.pulls.stop()
    await runtime.registry.stop()
    if runtime.tracing is not None:
        await asyncio.to_thread(runtime.tracing.close)
    return runtime.failure


def listen(host: str, port: int, flag: str) -> socket.socket:
    """Opens a listening socket. Raises ArgumentsInvalid when the address is taken or not ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        problem = f"cannot listen on {host}:{port}: {error.strerror}"
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            raise ArgumentsInvalid(f"--host: {problem}", "give an address of this machine, or 0.0.0.0 for all") from error
        remedy = "choose one above 1023" if isinstance(error, PermissionError) else "choose another port, or end what uses it"
        raise ArgumentsInvalid(f"{flag}: {problem}", remedy) from error
    listener.setblocking(False)
    return listener


def _affordable(connections: int) -> int:
    """Returns how many connections there may be: twice as many are held, and some of the files are for other things."""
    files = open_files.most()
    return connections if files is None else max(1, min(connections, files * 3 // 8))


async def _drain(runtime: Runtime, signals: Signals) -> float:
    """Lets load balancers look away, then refuses new requests and lets those in flight finish, unless a second signal comes.

    Returns the seconds that are left of the drain timeout for writing the last answers to slow clients.
    """
    settings = runtime.settings
    deadline = time.monotonic() + settings.drain_timeout.total_seconds()
    settle = settings.settle_time.total_seconds() if signals.settle and runtime.ready else 0.0
    runtime.drain()
    logger.info("draining", extra={"settleSeconds": settle, "timeoutSeconds": settings.drain_timeout.total_seconds()})

    async def finish() -> None:
        await asyncio.sleep(settle)
        runtime.close()
        await runtime.registry.drained()

    try:
        async with asyncio.timeout(settings.drain_timeout.total_seconds()):
            await _first(finish(), signals.insisted, runtime.ended)
    except TimeoutError:
        logger.warning("requests were still running when the drain timeout was over")
    return 0.0 if signals.insisted.is_set() else deadline - time.monotonic()


async def _first(*things: asyncio.Event | Coroutine[None, None, None]) -> None:
    """Returns when the first event is set or coroutine ends."""
    tasks = [asyncio.create_task(thing.wait() if isinstance(thing, asyncio.Event) else thing) for thing in things]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
