"""The state directory: how `modelyard get`, `logs`, `chat` and `down` find the running `modelyard up`.

One instance owns a state directory, by a lock that the kernel releases however the process ends. What a crashed instance left
behind is therefore never taken for a living one, and the next instance removes it. Several run side by side in several
directories.

    lock            held by the owner
    instance.json   who it is and where it answers
    models.json     the InferenceModels with their status
    logs/<namespace>/<model>/<pod>.log
"""

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from modelyard.local.errors import AlreadyRunning, LocalFailed, NothingRuns

#: A reader holds the lock for an instant; an owner that starts waits this long for it, in seconds.
_PATIENCE = 1.0


@dataclass(frozen=True, slots=True)
class Instance:
    """A running `modelyard up`. ``url`` ends in ``/v1``; ``started`` is in seconds since the epoch."""

    pid: int
    url: str
    private_url: str
    started: float
    files: tuple[str, ...] = ()


def default_path(environ: Mapping[str, str]) -> Path:
    """Returns ``$MODELYARD_STATE_DIR``, else the place that XDG has for state."""
    if chosen := environ.get("MODELYARD_STATE_DIR"):
        return Path(chosen).expanduser()
    base = environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "modelyard"


class State:
    """A state directory, for its owner and for those who ask."""

    def __init__(self, root: Path):
        self.root = root.absolute()
        self.logs = self.root / "logs"

    @contextlib.contextmanager
    def own(self) -> Iterator[None]:
        """Owns the directory while the context lasts; raises AlreadyRunning, or LocalFailed where nothing can be kept there."""
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.root.chmod(0o700)
            file = (self.root / "lock").open("w")
        except OSError as problem:
            raise self._unwritable(problem) from None
        with file as lock:
            self._lock(lock.fileno())
            self._clean(self.logs)
            try:
                yield
            finally:
                self._clean()

    def announce(self, instance: Instance) -> None:
        """Tells others where this instance answers; raises LocalFailed where it cannot be written."""
        self._write("instance.json", asdict(instance))

    def publish(self, models: Sequence[Mapping[str, Any]]) -> None:
        """Tells others how the models are; raises LocalFailed where it cannot be written."""
        self._write("models.json", list(models))

    def instance(self) -> Instance:
        """Returns the running instance; raises NothingRuns."""
        try:
            with (self.root / "lock").open() as lock:
                if self._is_free(lock.fileno()):
                    raise NothingRuns(*self._nothing())
            told = json.loads((self.root / "instance.json").read_text())
        except (FileNotFoundError, NotADirectoryError):
            raise NothingRuns(*self._nothing()) from None
        except PermissionError:
            raise LocalFailed(f"the state of `modelyard up` in {self.root} is another user's", "Ask as the user who started it") from None
        return Instance(**told | {"files": tuple(told["files"])})

    def models(self) -> list[dict[str, Any]]:
        """Returns the InferenceModels of the running instance as JSON objects; raises NothingRuns."""
        self.instance()
        path = self.root / "models.json"
        models: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
        return models

    def is_owned(self) -> bool:
        """Returns whether an instance lives, be it one that has said nothing yet or is about to end."""
        try:
            with (self.root / "lock").open() as lock:
                return not self._is_free(lock.fileno())
        except FileNotFoundError:
            return False

    def log_files(self, namespace: str, model: str) -> list[Path]:
        """Returns the logs of a model's pods, oldest pod first."""
        return sorted((self.logs / namespace / model).glob("*.log"), key=lambda path: (path.stat().st_ctime, path.name))

    def _nothing(self) -> tuple[str, str]:
        return f"no `modelyard up` runs (state directory {self.root})", "Start one: modelyard up FILE"

    def _lock(self, descriptor: int) -> None:
        end = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > end:
                    raise AlreadyRunning(*self._taken()) from None
                time.sleep(0.05)

    def _taken(self) -> tuple[str, str]:
        try:
            who = self.instance()
            what = f"`modelyard up` already runs (process {who.pid}, {who.url})"
        except (NothingRuns, ValueError):
            what = "another `modelyard up` starts or ends"
        return what, "Add files to that one, stop it with `modelyard down`, or run a second one beside it with --state-dir DIR"

    @staticmethod
    def _is_free(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _clean(self, *folders: Path) -> None:
        for name in ("instance.json", "models.json"):
            (self.root / name).unlink(missing_ok=True)
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)

    def _write(self, name: str, content: object) -> None:
        """Writes as a whole: a reader sees the old file or the new one."""
        temporary = self.root / f".{name}.new"
        try:
            temporary.write_text(json.dumps(content))
            os.replace(temporary, self.root / name)
        except OSError as problem:
            raise self._unwritable(problem) from None

    def _unwritable(self, problem: OSError) -> LocalFailed:
        return LocalFailed(
            f"cannot keep state in {self.root}: {problem.strerror}", "Make room there, or choose another folder with --state-dir"
        )
