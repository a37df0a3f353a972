"""What a source says: ``builtin://name``, ``hf://org/name[@revision]``, ``s3://bucket/folder``, ``gs://bucket/folder`` or ``file:///path``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from modelyard_runtime.errors import ArgumentsInvalid
from modelyard_runtime.sources.catalogue import catalogue, lookup

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")
_REVISION = re.compile(r"[A-Za-z0-9][\w./-]{0,127}")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
_FORMATS = "use hf://org/name[@revision], s3://bucket/folder, gs://bucket/folder, file:///path or builtin://name"


@dataclass(frozen=True, slots=True)
class Builtin:
    """A model of the catalogue."""

    name: str


@dataclass(frozen=True, slots=True)
class Hub:
    """A repository of the Hugging Face hub; ``revision`` is a branch, tag or commit."""

    repository: str
    revision: str


@dataclass(frozen=True, slots=True)
class Local:
    """A folder, or a GGUF file."""

    path: Path


@dataclass(frozen=True, slots=True)
class Bucket:
    """A folder of an object store; ``scheme`` is s3 or gs."""

    scheme: str
    bucket: str
    prefix: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.prefix}"


Source = Builtin | Hub | Bucket | Local


def parse(text: str) -> Source:
    """Parses a source. Raises ArgumentsInvalid, saying which forms there are."""
    scheme, found, rest = text.partition("://")
    if not found or not rest or not text.isprintable():
        raise ArgumentsInvalid(f"--model: {text!r} is not a source", f"{_meant(text)}{_FORMATS}")
    if ".." in rest.split("/"):
        raise ArgumentsInvalid(f"--model: {text!r} has a way up in it", "write the path without ..")
    if scheme == "builtin":
        return Builtin(rest)
    if scheme == "hf":
        return _hub(text, rest)
    if scheme in {"s3", "gs"}:
        return _bucket(text, scheme, rest)
    if scheme == "file":
        return _local(text, rest)
    raise ArgumentsInvalid(f"--model: sources of kind {scheme}:// are not supported", _FORMATS)


def known(text: str) -> Source:
    """Parses a source, and looks for a builtin model in the catalogue: the one place that is known without asking anybody.

    Raises ArgumentsInvalid or WeightsNotFound, naming what there is.
    """
    source = parse(text)
    if isinstance(source, Builtin):
        lookup(source.name)
    return source


def _meant(text: str) -> str:
    """Returns how a model, a repository or a path is written that lacks its scheme; empty for anything else."""
    if text in catalogue():
        return f"write builtin://{text} for the model of the catalogue; or "
    if "/" in text and _REPOSITORY.fullmatch(text):
        return f"write hf://{text} for the repository; or "
    return f"write file://{text} for the folder; or " if re.fullmatch(r"/[\w./-]+", text) else ""


def _hub(text: str, rest: str) -> Hub:
    repository, _, revision = rest.partition("@")
    if not _REPOSITORY.fullmatch(repository) or ".." in rest:
        raise ArgumentsInvalid(f"--model: {text!r} does not name a repository", "use hf://org/name or hf://org/name@revision")
    if revision and not _REVISION.fullmatch(revision):
        raise ArgumentsInvalid(f"--model: {revision!r} is not a revision", "use a branch, tag or commit after the @")
    return Hub(repository, revision or "main")


def _bucket(text: str, scheme: str, rest: str) -> Bucket:
    bucket, _, prefix = rest.partition("/")
    parts = prefix.rstrip("/").split("/")
    if not _BUCKET.fullmatch(bucket) or not all(parts) or "." in parts:
        raise ArgumentsInvalid(f"--model: {text!r} does not name a folder of a bucket", f"use {scheme}://bucket/folder")
    return Bucket(scheme, bucket, prefix.rstrip("/"))


def _local(text: str, rest: str) -> Local:
    if not rest.startswith("/"):
        raise ArgumentsInvalid(f"--model: {text!r} is not absolute", f"write three slashes, as in file:///{rest}")
    return Local(Path(rest))
