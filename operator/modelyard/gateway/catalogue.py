"""`/v1/models`: what can be asked for, in OpenAI's shape."""

from __future__ import annotations

from collections.abc import Iterator
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
    entries = [_entry(directory, record, name) for name, record in names(directory)]
    return _answer({"object": "list", "data": entries})


def names(directory: Directory) -> Iterator[tuple[str, ModelRecord]]:
    """Yields the names to list, each with its model: of each model the shortest, its aliases and its adapters."""
    known = directory.names()
    for record in directory.models():
        held = [alias for alias in record.aliases if known[alias] is record and alias != record.name]
        name = directory.public_name(record)
        adapters = [adapter for adapter in record.of_adapters(name) if known[adapter] is record]
        yield from ((each, record) for each in (name, *held, *adapters))


def created(record: ModelRecord) -> int:
    """Returns when a model was created in Unix seconds, 0 where that is not known."""
    try:
        return int(datetime.fromisoformat(record.created).timestamp())
    except ValueError:
        return 0


def show_model(directory: Directory, name: str) -> Answer:
    """Returns one model under the name it was asked by; raises ModelNotFound."""
    return _answer(_entry(directory, directory.resolve(name), name))


def _entry(directory: Directory, record: ModelRecord, name: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": created(record),
        "owned_by": record.key.partition("/")[0],
        "root": directory.public_name(record),
        "capabilities": list(record.capabilities),
    }


def _answer(document: dict[str, Any]) -> Answer:
    return Answer(200, JSON_TYPE, orjson.dumps(document))
