"""Repositories of the Hugging Face hub: safetensors, config and tokenizer files alone, in the hub client's own cache layout."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from modelyard_runtime.errors import DownloadFailed, Unauthorized, UnsupportedModel, WeightsNotFound
from modelyard_runtime.progress import Phase, Report, Step
from modelyard_runtime.sources import ranged, store
from modelyard_runtime.sources.files import UNWANTED, WANTED, have_weights, wanted
from modelyard_runtime.sources.source import Hub

_PARALLEL = 4
_ETAG = re.compile(r"[\w.-]{1,128}")


def resolve(source: Hub, cache: Path, stores: Sequence[Path], token: str | None, report: Report, *, marker: str) -> Path:
    """Returns a repository's snapshot: from a store, from the hub, or from the cache when the hub cannot be reached.

    Raises WeightsNotFound, Unauthorized, DownloadFailed or UnsupportedModel.
    """
    for place in stores:
        found = _cached(source, place, marker)
        if found:
            return found
    try:
        return _download(source, cache, token, report, marker)
    except DownloadFailed:
        found = _cached(source, cache, marker)
        if found is None:
            raise
        return found


def _cached(source: Hub, place: Path, marker: str) -> Path | None:
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - slow to import, and most sources do not need it
    from huggingface_hub.errors import LocalEntryNotFoundError  # noqa: PLC0415

    try:
        folder = Path(
            snapshot_download(
                source.repository,
                revision=source.revision,
                cache_dir=place / "hub",
                local_files_only=True,
                allow_patterns=list(WANTED),
                ignore_patterns=list(UNWANTED),
            )
        )
    except LocalEntryNotFoundError:
        return None
    complete = (folder / marker).is_file() and have_weights(path.name for path in folder.iterdir())
    return folder if complete else None


def _download(source: Hub, cache: Path, token: str | None, report: Report, marker: str) -> Path:
    from huggingface_hub import HfApi, constants, snapshot_download  # noqa: PLC0415

    with _hub_errors(source, token), store.storage_errors(cache):
        info = HfApi(token=token or False).model_info(
            source.repository, revision=source.revision, files_metadata=True, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
        )
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
        names = wanted(sizes)
        _check(source, names, marker)
        _fetch_blobs(source, {name: sizes[name] for name in names}, cache, commit=info.sha or source.revision, token=token, report=report)
        # All blobs are there: what is left is the snapshot's folder, of links to them.
        return Path(
            snapshot_download(
                source.repository, revision=source.revision, cache_dir=cache / "hub", token=token or False, allow_patterns=names
            )
        )


def _fetch_blobs(source: Hub, sizes: Mapping[str, int], cache: Path, *, commit: str, token: str | None, report: Report) -> None:
    """Puts a snapshot's files where huggingface_hub keeps them, by their etags."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url  # noqa: PLC0415
    from huggingface_hub.utils import build_hf_headers, get_session  # noqa: PLC0415

    blobs, parts = cache / "hub" / f"models--{source.repository.replace('/', '--')}" / "blobs", cache / "downloads"
    headers = build_hf_headers(token=token or False) | {"accept-encoding": "identity"}  # ranges count bytes as they are stored
    total = sum(sizes.values())

    def look(name: str) -> ranged.Wanted:
        url = hf_hub_url(source.repository, name, revision=commit)
        facts = get_hf_file_metadata(url, token=token or False)
        if facts.etag is None or not _ETAG.fullmatch(facts.etag):
            raise DownloadFailed(f"{url} has no etag", "try again later, or use another mirror of the hub")
        return ranged.Wanted(url, sizes[name] if facts.size is None else facts.size, facts.etag, blobs / facts.etag)

    report(Step.of_bytes(Phase.DOWNLOAD, 0, total))
    with ThreadPoolExecutor(_PARALLEL) as threads:
        files = list({file.etag: file for file in threads.map(look, sizes)}.values())
        store.ensure_space(cache / "hub", sum(file.size for file in files if not file.present) - _kept(files, parts))
        tally = ranged.Tally(lambda done: report(Step.of_bytes(Phase.DOWNLOAD, done, total)))
        for fetched in [threads.submit(ranged.fetch, file, get_session(), headers, parts, tally) for file in files]:
            fetched.result()


def _kept(files: Sequence[ranged.Wanted], parts: Path) -> int:
    return sum(part.stat().st_size for part in (file.part(parts) for file in files) if part.is_file())


def _check(source: Hub, names: Sequence[str], marker: str) -> None:
    if marker not in names:
        raise UnsupportedModel(f"{source.repository} has no {marker}", "choose a repository in Transformers' layout")
    if not have_weights(names):
        raise UnsupportedModel(
            f"{source.repository} has no *.safetensors", "choose one that has; pickled weights can run code and are not loaded"
        )


@contextmanager
def _hub_errors(source: Hub, token: str | None) -> Iterator[None]:
    from httpx2 import HTTPError  # noqa: PLC0415
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError, RevisionNotFoundError  # noqa: PLC0415

    name = f"hf://{source.repository}"
    try:
        yield
    except GatedRepoError as error:
        raise Unauthorized(
            f"{name} is gated, and {_access(token)}",
            "accept its terms on the hub, and give that account's token: --token-file (spec.model.credentialsSecret)",
        ) from error
    except RepositoryNotFoundError as error:
        # The hub hides private repositories behind the same answer.
        if error.response.status_code in {401, 403}:
            raise Unauthorized(f"{name} does not exist or is private, and {_access(token)}") from error
        raise WeightsNotFound(
            f"{name} does not exist", "check the name; a private repository wants a token: --token-file (spec.model.credentialsSecret)"
        ) from error
    except RevisionNotFoundError as error:
        raise WeightsNotFound(
            f"{name} has no revision {source.revision!r}", "check what follows the @ in --model (spec.model.source)"
        ) from error
    except HfHubHTTPError as error:
        if error.response.status_code in {401, 403}:
            raise Unauthorized(f"the hub refuses {name}: {_access(token)}") from error
        raise DownloadFailed(f"the hub answered {error.response.status_code} for {name}", "try again later") from error
    except (HTTPError, OfflineModeIsEnabled, ConnectionError) as error:
        remedy = "check the network and HF_ENDPOINT, or put the weights on a volume (pvc://) or into the image (file://)"
        raise DownloadFailed(f"cannot reach the hub for {name}: {error}", remedy) from error


def _access(token: str | None) -> str:
    return "the token given may not read it" if token else "no token is given"
