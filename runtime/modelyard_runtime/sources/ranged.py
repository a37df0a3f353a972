"""Files over HTTP that go on where an earlier attempt ended, be it of another process, and are checked before they count.

huggingface_hub begins each file anew when the process was killed; a shard of several gigabytes is worth going on with.
"""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from modelyard_runtime.errors import DownloadFailed

_CHUNK = 1 << 20
_ATTEMPTS = 5
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file: where it is, its size in bytes, its ``etag`` (its SHA-256 where that has 64 digits), and where it is to be put."""

    url: str
    size: int
    etag: str
    place: Path

    @property
    def present(self) -> bool:
        """Whether it is there already, whole."""
        return self.place.is_file()

    def part(self, folder: Path) -> Path:
        """Returns where the part of it is kept that has been fetched."""
        return folder / f"{self.etag}.part"


class Tally:
    """Counts bytes over several threads. ``report`` gets the sum, and may raise to end them all."""

    def __init__(self, report: Callable[[int], None]):
        self._report = report
        self._lock = threading.Lock()
        self._done = 0

    def add(self, count: int) -> None:
        """Counts bytes, or takes some back."""
        with self._lock:
            self._done += count
            done = self._done
        self._report(done)


def fetch(wanted: Wanted, client: Any, headers: Mapping[str, str], parts: Path, tally: Tally) -> None:
    """Fetches a file by an httpx2 client, from where its part ends. Raises DownloadFailed, httpx2.HTTPError, or what the tally raises."""
    parts.mkdir(parents=True, exist_ok=True)
    part = wanted.part(parts)
    with FileLock(part.with_suffix(".lock")):
        if wanted.present:
            tally.add(wanted.size)
            return
        tally.add(_size(part))
        _complete(wanted, client, headers, part, tally)
        _check(wanted, part)
        wanted.place.parent.mkdir(parents=True, exist_ok=True)
        part.replace(wanted.place)


def _complete(wanted: Wanted, client: Any, headers: Mapping[str, str], part: Path, tally: Tally) -> None:
    from httpx2 import TransportError  # noqa: PLC0415 - slow to import, and most sources do not need it

    for attempt in range(_ATTEMPTS):
        try:
            _append(wanted, client, headers, part, tally)
        except TransportError:
            if attempt == _ATTEMPTS - 1:
                raise
            time.sleep(2**attempt / 4)
        if _size(part) >= wanted.size:
            return
    raise DownloadFailed(f"{wanted.url} ended after {_size(part)} of {wanted.size} bytes, {_ATTEMPTS} times")


def _append(wanted: Wanted, client: Any, headers: Mapping[str, str], part: Path, tally: Tally) -> None:
    from huggingface_hub import constants  # noqa: PLC0415

    begin = _size(part)
    if begin >= wanted.size:
        return
    tally.add(0)  # an attempt that nobody waits for any more is not begun
    silence = constants.HF_HUB_DOWNLOAD_TIMEOUT  # between two pieces; clients of the hub have none of their own
    asked = {**headers, "range": f"bytes={begin}-"}
    with client.stream("GET", wanted.url, headers=asked, follow_redirects=True, timeout=silence) as response:
        if response.status_code != 206:
            from huggingface_hub.utils import hf_raise_for_status  # noqa: PLC0415

            hf_raise_for_status(response)
            tally.add(-begin)  # a server without ranges sends all of it
            begin = 0
        with part.open("ab" if begin else "wb") as file:
            for chunk in response.iter_bytes(_CHUNK):
                file.write(chunk)
                tally.add(len(chunk))
                begin += len(chunk)
                if begin > wanted.size:  # whatever else comes: it is not what was promised, and would fill the disk
                    return


def _check(wanted: Wanted, part: Path) -> None:
    """Raises DownloadFailed on another file than was promised, and drops it."""
    size, found = _size(part), wanted.etag
    if _SHA256.fullmatch(wanted.etag):
        with part.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    if (size, found) != (wanted.size, wanted.etag):
        part.unlink()
        what = f"has {size} bytes, not {wanted.size}" if size != wanted.size else f"has SHA-256 {found[:12]}…, not {wanted.etag[:12]}…"
        raise DownloadFailed(f"{wanted.url} {what}", "try again; if it happens again, what the network has in between changes files")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
