"""JSON that clients sent: no NaN, no Infinity, no lone surrogates, no deeper and in no more pieces than can be worked with."""

from __future__ import annotations

import re
from typing import Any

import orjson

#: Levels of arrays and objects. orjson reads 1024 but writes 254, and templates are given what was read, with levels around it.
MOST_LEVELS = 128
#: Arrays and objects in all: each takes longer to read than many numbers, and nobody else is served meanwhile.
MOST_CONTAINERS = 100_000
#: A string; of one that does not end, all that is left, so that the search is over after it.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)


def loads(data: bytes | str) -> Any:
    """Returns the value of JSON.

    Raises orjson.JSONDecodeError, a ValueError, also when it is nested deeper than MOST_LEVELS, or has more than MOST_CONTAINERS.
    """
    brackets = data.count("[") + data.count("{") if isinstance(data, str) else _brackets(data)
    if brackets > MOST_CONTAINERS and _containers(data) > MOST_CONTAINERS:
        raise refused(f"it has more than {MOST_CONTAINERS} arrays and objects")
    value = orjson.loads(data)
    if brackets > MOST_LEVELS and _is_deep(value):
        raise refused(f"it is nested more than {MOST_LEVELS} levels deep")
    return value


def refused(why: str) -> orjson.JSONDecodeError:
    """Returns the error of a body that is not read."""
    return orjson.JSONDecodeError(why, "", 0)


def _containers(data: bytes | str) -> int:
    """Returns how many arrays and objects valid JSON has: brackets in strings are none."""
    return _brackets(_STRING.sub(b"", data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data))


def _brackets(data: bytes) -> int:
    return data.count(b"[") + data.count(b"{")


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
