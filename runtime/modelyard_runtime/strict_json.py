"""JSON that clients sent: no NaN, no Infinity, no lone surrogates, and nested no deeper than what is done with it later can follow."""

from __future__ import annotations

from typing import Any

import orjson

#: Levels of arrays and objects. orjson reads 1024 but writes 254, and templates are given what was read, with levels around it.
MOST_LEVELS = 128


def loads(data: bytes | str) -> Any:
    """Returns the value of JSON. Raises orjson.JSONDecodeError, a ValueError, also when it is nested deeper than MOST_LEVELS."""
    value = orjson.loads(data)
    if not _is_flat(data) and _is_deep(value):
        raise orjson.JSONDecodeError(f"it is nested more than {MOST_LEVELS} levels deep", "", 0)
    return value


def _is_flat(data: bytes | str) -> bool:
    """Whether there are too few brackets to be deep: true of most requests, and told at once."""
    if isinstance(data, str):
        return data.count("[") + data.count("{") <= MOST_LEVELS
    return data.count(b"[") + data.count(b"{") <= MOST_LEVELS


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MOST_LEVELS):
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent if isinstance(parent, list) else ())
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True
