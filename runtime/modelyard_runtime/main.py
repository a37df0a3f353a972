"""Entry point: `modelyard-runtime serve` and `modelyard-runtime pull`.

Nothing heavy is imported before the arguments are known to be right: ``--help`` and a wrong flag answer at once.
"""

import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from modelyard_runtime.arguments import parse
from modelyard_runtime.collecting import importing
from modelyard_runtime.errors import RuntimeFailed
from modelyard_runtime.hardware import set_waiting
from modelyard_runtime.settings import PullSettings, ServeSettings

_PROGRAM = "modelyard-runtime"
#: The name of a thread that `engine.engine` starts.
_ENGINE = "modelyard-engine"
_TERMINATION_LOG = Path("/dev/termination-log")
#: As shells have it for what Ctrl-C ends: 128 and the signal.
_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs a command; exits with 0, or with the cause's exit code after saying it in the termination log and on stderr.

    Ctrl-C where no server drains ends it with 130.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    log = os.environ.get("MODELYARD_TERMINATION_LOG")
    interrupted = _noting_interrupts()
    try:
        settings = parse(arguments)
        log = str(settings.termination_log) if settings.termination_log else log
        _run(settings)
    except RuntimeFailed as failure:
        if not interrupted.is_set():
            _report(failure, Path(log) if log else None)
            _exit(failure.exit_code)
    except KeyboardInterrupt:  # while weights are fetched, or before the server listens for signals
        interrupted.set()
    if interrupted.is_set():
        print(f"{_program()}: interrupted", file=sys.stderr, flush=True)
        _exit(_INTERRUPTED)
    _exit(0)


def _noting_interrupts() -> threading.Event:
    """Returns what is set at Ctrl-C: a library may swallow the exception that it raises, and fail later for a reason of its own."""
    noted = threading.Event()

    def note(number: int, frame: FrameType | None) -> None:
        noted.set()
        signal.default_int_handler(number, frame)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, note)
    return noted


def _program() -> str:
    return os.environ.get("MODELYARD_PROGRAM") or _PROGRAM


def _exit(code: int) -> NoReturn:
    """Ends the process. The interpreter must not be torn down under a step that hangs inside native code: that would abort it."""
    if any(thread.name == _ENGINE and thread.is_alive() for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _run(settings: ServeSettings | PullSettings) -> None:
    if isinstance(settings, PullSettings):
        from modelyard_runtime.sources.pull import pull  # noqa: PLC0415

        pull(settings)
    else:
        set_waiting(settings.cores)
        with importing():
            from modelyard_runtime.serving.server import run  # noqa: PLC0415

        run(settings)


def _report(failure: RuntimeFailed, log: Path | None) -> None:
    """Writes the cause for the operator and for people. The kubelet mounts its file; elsewhere only a named one is written."""
    program = _program()
    remedy = failure.remedy.replace(f"{_PROGRAM} ", f"{program} ")
    message = failure.message if failure.message.endswith("?") else f"{failure.message}."
    print(f"{program}: {failure.reason}: {message} Remedy: {remedy}", file=sys.stderr, flush=True)
    path = log or (_TERMINATION_LOG if _TERMINATION_LOG.exists() else None)
    if path is None:
        return
    try:
        path.write_text(failure.termination().to_json() + "\n")
    except OSError as error:
        print(f"modelyard-runtime: cannot write the termination log {path}: {error.strerror}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
