"""What Ollama's clients ask of a server rather than of a model: https://github.com/ollama/ollama/blob/main/docs/api.md.

Sizes and architectures are not known here: they are zero and empty, as `/api/show`, which a replica answers, says more.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any

import orjson

from modelyard.api.names import OLLAMA_VERSION
from modelyard.gateway import catalogue
from modelyard.gateway.directory import Directory
from modelyard.gateway.types import ModelRecord
from modelyard.gateway.wire import JSON_TYPE, Answer

_NO_DETAILS = {"parent_model": "", "format": "", "family": "", "families": [], "parameter_size": "", "quantization_level": ""}


def list_models(directory: Directory) -> Answer:
    """Returns every name that may be asked for."""
    return _answer([_listed(name, record) for name, record in catalogue.names(directory)])


def list_running(directory: Directory) -> Answer:
    """Returns the models that have a ready replica."""
    models = (record for record in directory.models() if directory.endpoints(record.key))
    return _answer([_listed(directory.public_name(record), record) | {"size_vram": 0} for record in models])


def version() -> Answer:
    """Says which API this is."""
    return Answer(200, JSON_TYPE, orjson.dumps({"version": OLLAMA_VERSION}))


def _listed(name: str, record: ModelRecord) -> dict[str, Any]:
    tagged = name if ":" in name else f"{name}:latest"
    # No file's checksum is known here: models are told apart by their keys.
    digest = hashlib.sha256(record.key.encode()).hexdigest()
    changed = datetime.fromtimestamp(catalogue.created(record), UTC).isoformat()
    return {"name": tagged, "model": tagged, "modified_at": changed, "size": 0, "digest": digest, "details": _NO_DETAILS}


def _answer(models: list[dict[str, Any]]) -> Answer:
    return Answer(200, JSON_TYPE, orjson.dumps({"models": models}))
