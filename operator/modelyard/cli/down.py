"""`modelyard down`."""

import contextlib
import os
import signal
import time
from typing import Annotated

import typer

from modelyard.cli.options import StateDir, state_of
from modelyard.local.errors import LocalFailed

_POLL_SECONDS = 0.1
_KILL_SECONDS = 10.0


def command(
    now: Annotated[bool, typer.Option("--now", help="Do not let running requests finish.")] = False,
    timeout: Annotated[float, typer.Option("--timeout", min=0.0, metavar="SECONDS", help="Longest wait for running requests.")] = 660.0,
    state_dir: StateDir = None,
) -> None:
    """Stop the running `modelyard up`: running requests finish, then every process ends.

    \b
    Examples:
      modelyard down
      modelyard down --now
    """
    state = state_of(state_dir)
    instance = state.instance()

    def wait(seconds: float) -> bool:
        end = time.monotonic() + seconds
        while (alive := state.is_owned()) and time.monotonic() < end:
            time.sleep(_POLL_SECONDS)
        return not alive

    def send() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(instance.pid, signal.SIGTERM)

    print(f"Stopping process {instance.pid} ({instance.url})…", flush=True)
    send()
    if not now and wait(timeout):
        print("Stopped.")
        return
    send()  # the second one is not patient
    if not wait(_KILL_SECONDS):
        raise LocalFailed(
            f"process {instance.pid} does not end", f"Look at it, or end it: kill -9 {instance.pid} (its children end with it)"
        )
    print("Stopped.")
