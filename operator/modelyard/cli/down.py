"""`modelyard down`."""

import contextlib
import os
import signal
import time
from typing import Annotated

import typer

from modelyard.cli.options import StateDir, state_of
from modelyard.local.errors import LocalFailed
from modelyard.local.state import State

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
    print(f"Stopping process {instance.pid} ({instance.url})…", flush=True)
    _terminate(instance.pid)
    if now or not _ended(state, timeout):
        _terminate(instance.pid)  # the second one is not patient
        if not _ended(state, _KILL_SECONDS):
            raise LocalFailed(
                f"process {instance.pid} does not end", f"Look at it, or end it: kill -9 {instance.pid} (its children end with it)"
            )
    print("Stopped.")


def _terminate(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)


def _ended(state: State, seconds: float) -> bool:
    """Returns whether the instance ends within so many seconds."""
    end = time.monotonic() + seconds
    while (alive := state.is_owned()) and time.monotonic() < end:
        time.sleep(_POLL_SECONDS)
    return not alive
