"""Folders of object stores, s3:// and gs://, through fsspec: safetensors, config and tokenizer files alone, into the cache.

A folder appears in the cache when all its files are there and have the sizes that the store lists. It is called by what the store lists,
names, sizes and etags, so that a changed folder is another one, and an unchanged one is not fetched again. Credentials are the clients'
own: AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL … and GOOGLE_APPLICATION_CREDENTIALS.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from modelyard_runtime.errors import DownloadFailed, RuntimeFailed, Unauthorized, UnsupportedModel, WeightsNotFound
from modelyard_runtime.progress import Phase, Report, Step, Stopped
from modelyard_runtime.sources import ranged, store
from modelyard_runtime.sources.files import have_weights, wanted
from modelyard_runtime.sources.source import Bucket

_PARALLEL = 4
_CHUNK = 8 << 20
_MOST_FILES = 10_000
_EXTRAS = {"s3": "s3", "gs": "gcs"}
_SECRETS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, in a manifest by spec.model.credentialsSecret",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS to a key file, in a manifest by spec.model.credentialsSecret",
}
_REACH = {
    "s3": "check the network, and AWS_ENDPOINT_URL where the store is not Amazon's",
    "gs": "check the network, and the proxy where one is needed",
}
_NO_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError", "RefreshError"}
_CLIENTS = {"botocore", "aiobotocore", "aiohttp", "gcsfs", "google"}
_UNFIT = re.compile(r"[^\w.-]+")


@dataclass(frozen=True, slots=True)
class Object:
    """A file of a folder in a store: where it is, its name below the folder, its size in bytes, and the store's mark of its content."""

    key: str
    name: str
    size: int
    etag: str


def resolve(source: Bucket, cache: Path, stores: Sequence[Path], report: Report) -> Path:
    """Returns the folder of a source: from a store, from the bucket, or from the cache when the bucket cannot be reached.

    Raises WeightsNotFound, Unauthorized, UnsupportedModel or DownloadFailed.
    """
    try:
        with _errors(source):
            client = _client(source)
            objects = _listed(client, source)
    except DownloadFailed:
        found = _latest(source, (*stores, cache))
        if found is None:
            raise
        return found
    entry = f"{_parent(source)}/{_digest(objects)}"
    found = store.find((*stores, cache), entry)
    if found is not None:
        return found
    with _errors(source):
        return store.publish(cache, entry, lambda target: _fetch_all(client, objects, target, report), resumable=True)


def places(source: Bucket, cache: Path) -> list[Path]:
    """Returns the folders that the cache holds of a source, of one content each."""
    return [path for path in (cache / _parent(source)).glob("[!.]*") if (path / "config.json").is_file()]


def _fetch_all(client: Any, objects: Sequence[Object], target: Path, report: Report) -> None:
    total = sum(one.size for one in objects)
    store.ensure_space(target.parent, total)
    report(Step.of_bytes(Phase.DOWNLOAD, 0, total))
    tally = ranged.Tally(lambda done: report(Step.of_bytes(Phase.DOWNLOAD, done, total)))
    with ThreadPoolExecutor(_PARALLEL) as threads:
        for fetched in [threads.submit(_fetch, client, one, target / one.name, tally) for one in objects]:
            fetched.result()


def _fetch(client: Any, one: Object, place: Path, tally: ranged.Tally) -> None:
    """Fetches a file, from where an interrupted attempt ended. Raises DownloadFailed when another size comes than was listed."""
    place.parent.mkdir(parents=True, exist_ok=True)
    done = place.stat().st_size if place.is_file() else 0
    tally.add(done)
    while done < one.size:
        content = client.cat_file(one.key, start=done, end=min(done + _CHUNK, one.size))
        if not content:
            break
        with place.open("ab") as file:
            file.write(content)
        done += len(content)
        tally.add(len(content))
    place.touch()
    if done != one.size or _etag(client.info(one.key, refresh=True)) != one.etag:
        place.unlink()
        raise DownloadFailed(f"{one.key} changed while it was fetched", "do not write to the folder while models start from it; try again")


def _listed(client: Any, source: Bucket) -> list[Object]:
    """Returns the files to fetch, in order. Raises WeightsNotFound or UnsupportedModel."""
    base = PurePosixPath(source.bucket, source.prefix)
    found = client.find(str(base), detail=True, refresh=True)
    if not found:
        raise WeightsNotFound(
            f"{source} holds no files", f"check the source: {source.scheme}://bucket/folder names the folder with config.json"
        )
    names = {str(PurePosixPath(key).relative_to(base)): key for key in list(found)[:_MOST_FILES] if PurePosixPath(key) != base}
    chosen = [name for name in sorted(wanted(names)) if ".." not in PurePosixPath(name).parts]
    if "config.json" not in chosen or not have_weights(chosen):
        raise UnsupportedModel(
            f"{source} has no config.json with *.safetensors beside it",
            "put a model in Transformers' layout there; pickled weights are not loaded",
        )
    return [Object(names[name], name, int(found[names[name]]["size"]), _etag(found[names[name]])) for name in chosen]


def _etag(facts: dict[str, Any]) -> str:
    return str(facts.get("ETag") or facts.get("etag") or facts.get("md5Hash") or facts.get("generation") or "")


def _client(source: Bucket) -> Any:
    import fsspec  # noqa: PLC0415 - slow to import, and most sources do not need it

    try:
        if source.scheme == "s3":
            return fsspec.filesystem("s3", skip_instance_cache=True)
        return fsspec.filesystem("gcs", skip_instance_cache=True)
    except ImportError as error:
        remedy = f"install modelyard[{_EXTRAS[source.scheme]}], or use an image that has it"
        raise UnsupportedModel(f"{source.scheme}:// needs a client that is not installed: {error}", remedy) from error


@contextmanager
def _errors(source: Bucket) -> Iterator[None]:
    try:
        yield
    except (RuntimeFailed, Stopped):
        raise
    except FileNotFoundError as error:
        raise WeightsNotFound(f"{source} does not exist", "check the bucket and the folder of the source") from error
    except PermissionError as error:
        raise Unauthorized(f"the store refuses {source}: {error}", _SECRETS[source.scheme]) from error
    except Exception as error:
        raise _told(error, source) from error


def _told(error: Exception, source: Bucket) -> Exception:
    """Returns the cause that a client's own error stands for."""
    if type(error).__name__ in _NO_CREDENTIALS:
        return Unauthorized(f"there are no credentials for {source}: {error}", _SECRETS[source.scheme])
    if isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _CLIENTS:
        return DownloadFailed(f"cannot read {source}: {error}", _REACH[source.scheme])
    return error


def _latest(source: Bucket, stores: Sequence[Path]) -> Path | None:
    """Returns the folder that was fetched last, for a store that cannot be reached."""
    found = [path for place in stores for path in places(source, place)]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def _parent(source: Bucket) -> str:
    """Returns the folder of a store for a source: readable, and one for each source."""
    readable = _UNFIT.sub("-", f"{source.bucket}-{source.prefix}")[:80].strip("-.")
    return f"{source.scheme}/{readable}-{hashlib.sha256(str(source).encode()).hexdigest()[:8]}"


def _digest(objects: Sequence[Object]) -> str:
    return hashlib.sha256(repr([(one.name, one.size, one.etag) for one in objects]).encode()).hexdigest()[:12]
