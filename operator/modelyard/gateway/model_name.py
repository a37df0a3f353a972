"""Which model a request asks for, read from its JSON body at a bounded cost to the event loop.

A small body is parsed. A big one (images, long prompts, token ids) is only walked, from quote to quote, giving way to other requests
after each slice: a parse of 32 MB would stop every stream for a tenth of a second. Its JSON is the runtime's to judge.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from modelyard.api.errors import InvalidRequest

PARSED_BYTES = 256 * 1024
_SLICE = 64 * 1024
_STEPS = 2000
_LONGEST_KEY = 16
_OUTSIDE = re.compile(rb'["{}\[\]]')
_INSIDE = re.compile(rb'["\\]')
_VALUE = re.compile(rb'[ \t\r\n]*:[ \t\r\n]*("(?:[^"\\]|\\.){0,1024}"|[^",{}\[\] \t\r\n]{1,32})')
_KEYS = {b'"model"': "model", b'"stream"': "stream"}


class Wanted(NamedTuple):
    """What routing needs of a body."""

    model: str
    stream: bool


async def read_wanted(body: bytes) -> Wanted:
    """Returns what the body asks for; raises InvalidRequest when that is not a JSON object with a string `model`."""
    if len(body) <= PARSED_BYTES:
        return _wanted(_parse(body))
    return _wanted(await _walk(body))


def _wanted(document: Any) -> Wanted:
    if type(document) is not dict:
        raise InvalidRequest("The request body must be a JSON object.")
    model = document.get("model")
    if type(model) is str and model:
        return Wanted(model, document.get("stream") is True)
    if model is None:
        raise InvalidRequest("You must provide a model parameter.", param="model", code="missing_required_parameter")
    raise InvalidRequest("'model' must be a non-empty string: the name of a model from /v1/models.", param="model", code="invalid_type")


def _parse(body: bytes) -> Any:
    if not body:
        raise InvalidRequest("The request has no body; send JSON with a `model`.")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"The request body is not valid JSON: {error}. Send JSON; multipart is not supported yet.") from None


@dataclass(slots=True)
class _Walk:
    """Where the walk is: ``string`` is the offset of the string that it is in, or None."""

    position: int = 0
    depth: int = 0
    string: int | None = None
    found: dict[str, Any] = field(default_factory=dict)


async def _walk(body: bytes) -> dict[str, Any] | None:
    if body[:1024].lstrip()[:1] != b"{":
        return None
    walk, steps, paused_at = _Walk(), 0, 0
    while walk.position < len(body):
        _step(body, walk)
        steps += 1
        if steps % _STEPS == 0 or walk.position - paused_at >= PARSED_BYTES:
            paused_at = walk.position
            await asyncio.sleep(0)
    return walk.found


def _step(body: bytes, walk: _Walk) -> None:
    pattern = _OUTSIDE if walk.string is None else _INSIDE
    match = pattern.search(body, walk.position, walk.position + _SLICE)
    if match is None:
        walk.position += _SLICE
        return
    mark, walk.position = match.group(), match.end()
    if mark == b"\\":
        walk.position += 1
    elif mark != b'"':
        walk.depth += 1 if mark in b"{[" else -1
    elif walk.string is None:
        walk.string = match.start()
    else:
        start, walk.string = walk.string, None
        if walk.depth == 1 and walk.position - start <= _LONGEST_KEY:
            _note(body, body[start : walk.position], walk)


def _note(body: bytes, text: bytes, walk: _Walk) -> None:
    """Keeps the value behind a key that is wanted; a value of another shape counts as false, which `_wanted` refuses as a model."""
    name = _KEYS.get(text)
    value = _VALUE.match(body, walk.position) if name else None
    if name and value:
        try:
            walk.found[name] = orjson.loads(value.group(1))
        except orjson.JSONDecodeError:
            walk.found[name] = False
        walk.position = value.end()
