"""The model cache: folders that appear whole or not at all.

A folder is made beside its place, under a lock shared by all processes of the cache, and renamed when it is complete. What a killed
process left behind is removed by the next one that takes the lock.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock
from safetensors import SafetensorError

from modelyard_runtime.errors import DownloadFailed

_STAGING = ".staging"
_RUSTS = re.compile(r"\(os error (\d+)\)")
_FORBIDDEN = frozenset({errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.EIO})
_DEEP = frozenset({"s3", "gs"})
_REMEDY = "free space there, or choose another folder with --cache-dir or MODELYARD_CACHE_DIR (in a cluster: a larger volume)"


def find(stores: Iterable[Path], entry: str) -> Path | None:
    """Returns the first of the stores' folders called ``entry``, or None."""
    return next((store / entry for store in stores if (store / entry / "config.json").is_file()), None)


def publish(cache: Path, entry: str, make: Callable[[Path], None], *, resumable: bool = False) -> Path:
    """Returns the cache's folder called ``entry``, made by ``make`` when it is not there.

    ``make`` gets a path that does not exist and creates a folder there; one that is ``resumable`` may find there what an interrupted
    attempt left. Raises DownloadFailed when the cache cannot be written.
    """
    place = cache / entry
    with storage_errors(cache):
        _make_folder(place.parent)
        with FileLock(place.with_name(f".{place.name}.lock")):
            if not place.is_dir():
                staging = place.with_name(f"{_STAGING}-{place.name}")
                if not resumable:
                    discard(staging)
                make(staging)
                staging.rename(place)
    return place


def forget(cache: Path, folder: Path) -> bool:
    """Removes a model from the cache, so that it is fetched again; returns False for one that is not the cache's."""
    try:
        inside = folder.resolve().relative_to(cache.resolve())
    except ValueError:
        return False
    # builtin/name, converted/name, s3/bucket-folder/content, or hub/models--org--name with all that it refers to.
    place = cache.joinpath(*inside.parts[: 3 if inside.parts[0] in _DEEP else 2])
    with storage_errors(cache), FileLock(place.with_name(f".{place.name}.lock")):
        discard(place)
    return True


def discard(folder: Path) -> None:
    """Removes what an interrupted attempt left."""
    if folder.exists():
        shutil.rmtree(folder)


def ensure_space(folder: Path, needed: int) -> None:
    """Raises DownloadFailed when the file system of ``folder`` has fewer than ``needed`` bytes free."""
    with storage_errors(folder):
        _make_folder(folder)
        free = shutil.disk_usage(folder).free
    if free < needed:
        raise DownloadFailed(f"not enough disk space: {_size(needed)} are needed in {folder}, {_size(free)} are free", _REMEDY)


@contextmanager
def storage_errors(folder: Path) -> Iterator[None]:
    """Turns a full, read-only, forbidden or broken disk into DownloadFailed."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = _number(error)
        if number in {errno.ENOSPC, errno.EDQUOT}:
            raise DownloadFailed(f"the disk of {folder} is full", _REMEDY) from error
        if number == errno.EFBIG:
            raise DownloadFailed(
                f"{folder} takes no file so large", "raise ulimit -f, or choose another folder with --cache-dir or MODELYARD_CACHE_DIR"
            ) from error
        if number in _FORBIDDEN:
            cause = f"cannot write the model cache {folder}: {os.strerror(number)}"
            raise DownloadFailed(cause, "make it writable, or choose another folder with --cache-dir or MODELYARD_CACHE_DIR") from error
        raise


def _number(error: Exception) -> int:
    """Returns the system's number of an error, which safetensors has in its text alone; 0 where there is none."""
    if isinstance(error, OSError):
        return error.errno or 0
    told = _RUSTS.search(str(error))
    return int(told[1]) if told else 0


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:  # file systems of the kernel's own, where nobody makes folders
        raise OSError(errno.EROFS, error.strerror) from error


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
