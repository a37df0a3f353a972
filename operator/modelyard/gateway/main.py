"""`modelyard-gateway`: settings, signals, and the order of starting and stopping."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from typing import NoReturn

from modelyard.gateway import logs
from modelyard.gateway.directory import Directory
from modelyard.gateway.server import serve
from modelyard.gateway.settings import GatewaySettings
from modelyard.gateway.watch import ClusterWatch
from modelyard.kube.client import KubeClient
from modelyard.kube.credentials import NoCluster
from modelyard.process import command_line, open_files

_log = logging.getLogger(__name__)
_FAILED = 1
_DESCRIPTION = (
    "Routes OpenAI's and Ollama's clients to the models of a cluster, which it finds by the pod's service account or $KUBECONFIG."
)


async def run(settings: GatewaySettings) -> None:
    """Serves a cluster's models until SIGTERM or SIGINT, then drains. Raises NoCluster or OSError when it cannot start."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    client = await KubeClient.connect()
    directory = Directory()
    watch = ClusterWatch(client, directory, settings.watch_namespace)
    following = asyncio.create_task(watch.run())
    try:
        gateway = await serve(settings, directory, ready=lambda: watch.synced)
        _log.info("listening on port %d, private port %d", gateway.port, gateway.private_port)
        await asyncio.wait((asyncio.ensure_future(stop.wait()), following), return_when=asyncio.FIRST_COMPLETED)
        if following.done():
            following.result()
        _log.info("stopping: requests in flight are finished first")
        await gateway.drain()
        _log.info("stopped")
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await client.close()


def main() -> NoReturn:
    """Runs the gateway; exits with 0 after a drain, 1 when it cannot start, 2 on bad settings."""
    settings = command_line.parse(GatewaySettings, "modelyard-gateway", _DESCRIPTION, sys.argv[1:])
    logs.set_up()
    open_files.take_all()
    try:
        with asyncio.Runner(loop_factory=_new_loop) as runner:
            runner.run(run(settings))
    except (NoCluster, OSError) as error:
        _log.error("cannot start: %s", error)
        sys.exit(_FAILED)
    sys.exit(0)


def _new_loop() -> asyncio.AbstractEventLoop:
    if sys.platform == "win32":
        return asyncio.new_event_loop()
    import uvloop  # noqa: PLC0415  (not made for Windows)

    return uvloop.new_event_loop()


if __name__ == "__main__":
    main()
