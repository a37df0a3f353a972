"""`/v1/models`: what can be asked for, in OpenAI's shape."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import orjson

from modelyard.gateway.directory import Directory
from modelyard.gateway.types import ModelRecord
from modelyard.gateway.wire import JSON_TYPE, Answer


def list_models(directory: Directory) -> Answer:
    """Returns every model, and each alias and adapter as an entry of its own whose ``root`` is the model.

    Some clients use only names that are listed here.
    """
    names = directory.names()
    entries = []
    for record in directory.models():
        held = [alias for alias in record.aliases if names[alias] is record and alias != record.name]
        name = directory.public_name(record)
        adapters = [adapter for adapter in record.of_adapters(name) if names[adapter] is record]
        entries += [_entry(directory, record, each) for each in (name, *held, *adapters)]
    return _answer({"object": "list", "data": entries})


def show_model(directory: Directory, name: str) -> Answer:
    """Returns one model under the name it was asked by; raises ModelNotFound."""
    return _answer(_entry(directory, directory.resolve(name), name))


def _entry(directory: Directory, record: ModelRecord, name: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": _unix(record.created),
        "owned_by": record.key.partition("/")[0],
        "root": directory.public_name(record),
        "capabilities": list(record.capabilities),
    }


def _answer(document: dict[str, Any]) -> Answer:
    return Answer(200, JSON_TYPE, orjson.dumps(document))


def _unix(rfc3339: str) -> int:
    try:
        return int(datetime.fromisoformat(rfc3339).timestamp())
    except ValueError:
        return 0
