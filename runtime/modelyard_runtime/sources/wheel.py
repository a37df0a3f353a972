"""Weights out of wheels: fetched by pip as the user has configured it, verified, unpacked; their code is never run."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from modelyard_runtime.errors import DownloadFailed, Unauthorized, WeightsNotFound
from modelyard_runtime.progress import Phase, Report, Step
from modelyard_runtime.sources.catalogue import Wheel

_POLL_SECONDS = 0.2
_CHUNK = 1 << 20
# pip as a process that ends with this one, however that ends: else it would go on to write where the next attempt has cleaned up.
_MORTAL = """
import ctypes, os, runpy, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG, of <linux/prctl.h>
if os.getppid() != int(sys.argv.pop(1)):
    sys.exit(1)
runpy.run_module("pip", run_name="__main__", alter_sys=True)
"""
_REMEDY = "check pip's configuration and the network: `{command}` must work"


def fetch(wheel: Wheel, downloads: Path, report: Report) -> Path:
    """Returns the verified wheel in ``downloads``, fetched when it is not there; a complete one of an earlier run is used again.

    Raises DownloadFailed, Unauthorized or WeightsNotFound.
    """
    kept = downloads / f"{wheel.package}-{wheel.version}-{wheel.sha256[:12]}.whl"
    if kept.is_file() and _digest(kept) == wheel.sha256:
        return kept
    downloads.mkdir(parents=True, exist_ok=True)
    for left in downloads.glob(f".{wheel.package}-*"):  # by a process that was killed: the caller holds the model's lock
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f".{wheel.package}-", dir=downloads) as work:
        fetched = _download(wheel, Path(work), report)
        found = _digest(fetched)
        if found != wheel.sha256:
            cause = f"{wheel.package}=={wheel.version} has SHA-256 {found[:12]}…, the catalogue says {wheel.sha256[:12]}…"
            raise DownloadFailed(cause, "the package index serves another file; check pip's index-url")
        fetched.replace(kept)
    return kept


def unpack(archive: Path, wheel: Wheel, target: Path) -> None:
    """Unpacks the wheel's ``path`` into the new folder ``target``. Raises DownloadFailed on members that leave it or are too much."""
    target.mkdir(parents=True)
    inside = PurePosixPath(wheel.path)
    left = wheel.space
    with zipfile.ZipFile(archive) as bundle:
        for member in bundle.infolist():
            path = PurePosixPath(member.filename)
            if member.is_dir() or not path.is_relative_to(inside):
                continue
            left -= member.file_size
            name = path.relative_to(inside) if path != inside else PurePosixPath(path.name)
            _check(member, name, left)
            place = target / name
            place.parent.mkdir(parents=True, exist_ok=True)
            with bundle.open(member) as source, place.open("xb") as sink:
                shutil.copyfileobj(source, sink, _CHUNK)
    if not any(target.iterdir()):
        raise WeightsNotFound(f"the wheel {archive.name} holds no {wheel.path}")


def _check(member: zipfile.ZipInfo, name: PurePosixPath, left: int) -> None:
    unsafe = name.is_absolute() or ".." in name.parts or "\\" in member.filename or stat.S_ISLNK(member.external_attr >> 16)
    if unsafe or left < 0:
        raise DownloadFailed(f"the wheel's member {member.filename!r} is unsafe to unpack", "do not use this wheel")


def _download(wheel: Wheel, work: Path, report: Report) -> Path:
    into = work / "out"
    requirement = f"{wheel.package}=={wheel.version}"
    command = ["download", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--no-input", "--progress-bar=off", requirement]
    code, output = _run(
        [*_pip(), *command, "--dest", str(into)], work, lambda done: report(Step.of_bytes(Phase.DOWNLOAD, done, wheel.size))
    )
    if code:
        raise _failure(requirement, output, " ".join(["pip", *command]))
    report(Step.of_bytes(Phase.DOWNLOAD, wheel.size, wheel.size))
    return next(into.glob("*.whl"))


def _pip() -> list[str]:
    """Returns the command of this interpreter's pip, or of any: an environment may be made without one, and wheels of weights fit all."""
    if importlib.util.find_spec("pip"):
        mortal = [sys.executable, "-c", _MORTAL, str(os.getpid())]
        return mortal if sys.platform == "linux" else [sys.executable, "-m", "pip"]
    found = shutil.which("pip") or shutil.which("pip3")
    if found is None:
        remedy = "bake the weights into the image (build argument BUILTIN_MODELS), use a volume (pvc://), or install pip"
        raise DownloadFailed("there is no pip here to fetch the weights with", remedy)
    return [found]


def _run(command: list[str], work: Path, progress: Callable[[int], None]) -> tuple[int, str]:
    """Runs pip in ``work`` and returns its exit code and output. Ends it when ``progress``, called with bytes, raises."""
    environment = os.environ | {"TMPDIR": str(work), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    output = work / "pip.log"
    # The command is made of names and versions of the catalogue.
    with (
        output.open("wb") as log,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment) as pip,  # noqa: S603
    ):
        try:
            while pip.poll() is None:
                progress(_largest(work))
                _wait(pip)
        except BaseException:
            pip.kill()
            raise
    return pip.returncode, output.read_text(errors="replace")


def _wait(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(_POLL_SECONDS)
    except subprocess.TimeoutExpired:
        return


def _largest(folder: Path) -> int:
    """Returns the size of the largest file below ``folder``, in bytes: pip says nothing of how far it is."""
    sizes = [0]
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                sizes.append(Path(root, name).stat().st_size)
            except FileNotFoundError:
                continue  # pip moved it meanwhile
    return max(sizes)


def _failure(requirement: str, output: str, command: str) -> DownloadFailed | Unauthorized | WeightsNotFound:
    errors = [line.strip() for line in output.splitlines() if "error" in line.lower()] or output.strip().splitlines()[-1:]
    cause = f"pip could not fetch {requirement}: {errors[-1][:500] if errors else 'no output'}"
    remedy = _REMEDY.format(command=command)
    if "401" in output or "403 Client Error" in output:
        return Unauthorized(cause, "give pip credentials for the package index")
    if "No matching distribution" in output and "Connection" not in output and "connection" not in output:
        return WeightsNotFound(cause, f"point pip at an index that has {requirement} (PIP_INDEX_URL), or bake the weights into the image")
    return DownloadFailed(cause, remedy)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
