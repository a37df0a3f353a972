"""`modelyard-gateway`: settings, signals, and the order of starting and stopping."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from typing import NoReturn

from pydantic import ValidationError
from pydantic_settings import CliApp, CliSettingsSource, SettingsError

from modelyard.api.names import ENV_PREFIX
from modelyard.api.wording import said
from modelyard.gateway import logs
from modelyard.gateway.directory import Directory
from modelyard.gateway.server import serve
from modelyard.gateway.settings import GatewaySettings
from modelyard.gateway.watch import ClusterWatch
from modelyard.kube.client import KubeClient
from modelyard.kube.credentials import NoCluster

_log = logging.getLogger(__name__)
_BAD_SETTINGS = 2
_FAILED = 1


def parse_settings(arguments: list[str]) -> GatewaySettings:
    """Reads flags, then the environment, then defaults; exits with 2 and one line per bad value."""
    source: CliSettingsSource[GatewaySettings] = CliSettingsSource(
        GatewaySettings,
        cli_prog_name="modelyard-gateway",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
    )
    try:
        return CliApp.run(GatewaySettings, cli_args=arguments, cli_settings_source=source)
    except ValidationError as error:
        for problem in error.errors():
            name = str(problem["loc"][0]) if problem["loc"] else "settings"
            flag = name.replace("_", "-")
            print(f"--{flag} ({ENV_PREFIX}{name.upper()}): {said(problem)}, not {problem['input']!r}", file=sys.stderr)
    except SettingsError as error:
        print(error, file=sys.stderr)
    sys.exit(_BAD_SETTINGS)


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
    settings = parse_settings(sys.argv[1:])
    logs.set_up()
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
