"""From a source to a folder with config.json, weights and tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import assert_never

from modelyard_runtime.progress import Phase, Report, Step
from modelyard_runtime.sources import bucket, builtin, hub, local, store
from modelyard_runtime.sources.source import Bucket, Builtin, Hub, Local, parse


def resolve(
    source: str,
    *,
    cache_dir: Path,
    model_dirs: Sequence[Path] = (),
    token: str | None = None,
    progress: Report,
    marker: str = "config.json",
) -> Path:
    """Returns the folder of a source, fetched and converted into ``cache_dir`` where it is in none of the read-only ``model_dirs``.

    ``marker`` is the file that tells such a folder. Blocks; ``progress`` is called from this thread.
    Raises ArgumentsInvalid, WeightsNotFound, Unauthorized, DownloadFailed or UnsupportedModel.
    """
    parsed = parse(source)
    progress(Step(Phase.RESOLVE))
    match parsed:
        case Builtin(name):
            return builtin.resolve(name, cache_dir, model_dirs, progress)
        case Hub():
            return hub.resolve(parsed, cache_dir, model_dirs, token, progress, marker=marker)
        case Bucket():
            return bucket.resolve(parsed, cache_dir, model_dirs, progress)
        case Local(path):
            return local.resolve(path, cache_dir, model_dirs, progress, marker)
        case _:
            assert_never(parsed)


def remove(source: str, cache_dir: Path) -> bool:
    """Removes what the cache holds of a source; returns False where there is nothing of it, as of a local folder."""
    gone = [store.forget(cache_dir, place) for place in _places(source, cache_dir) if place.is_dir()]
    return any(gone)


def shares(one: str, other: str, cache_dir: Path) -> bool:
    """Whether what the cache holds of two sources is the same: revisions of a repository have their files in common."""
    return not set(_places(one, cache_dir)).isdisjoint(_places(other, cache_dir))


def _places(source: str, cache_dir: Path) -> list[Path]:
    match parse(source):
        case Builtin(name):
            return [cache_dir / builtin.place(name)]
        case Hub(repository):
            return [cache_dir / "hub" / f"models--{repository.replace('/', '--')}"]
        case Bucket() as found:
            return bucket.places(found, cache_dir)
        case _:
            return []
