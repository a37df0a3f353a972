"""Which model a request asks for, read from its body at a bounded cost to the event loop: JSON, or a form with files.

A small body is parsed. A big one (images, long prompts, token ids) is only walked, from quote to quote, giving way to other requests
after each slice: a parse of 32 MB would stop every stream for a tenth of a second. Its JSON is the runtime's to judge.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from typing import Any

import orjson

from modelyard.api import multipart
from modelyard.api.errors import InvalidRequest

PARSED_BYTES = 256 * 1024
_SLICE = 16 * 1024
_TURN = 1_000
_LONGEST_KEY = 16
_LONGEST_NAME = 1024
_TOKEN = re.compile(rb'\\(?:[\x00-\xff])?|["{}\[\]]')
_VALUE = re.compile(rb'[ \t\r\n]*:[ \t\r\n]*("(?:[^"\\]|\\.){0,1024}"|[^",{}\[\] \t\r\n]{1,32}|.)', re.DOTALL)
_KEYS = {b'"model"': "model", b'"stream"': "stream"}
_CONTENT_TYPE = re.compile(rb"^content-type:[ \t]*([^\r\n]*)", re.IGNORECASE | re.MULTILINE)


@dataclass(slots=True)
class Wanted:
    """What routing needs of a body; ``stream`` is None where it says nothing of streams, or something else."""

    model: str
    stream: bool | None


def wanted_at_once(body: bytes) -> Wanted | None:
    """Returns what a small JSON body asks for, or None for other bodies, which `read_wanted` reads. Raises InvalidRequest."""
    if len(body) > PARSED_BYTES or body.startswith(b"--"):  # as every form begins, and no JSON
        return None
    try:
        return _wanted(orjson.loads(body))
    except orjson.JSONDecodeError as error:
        raise _not_json(body, error) from None


async def read_wanted(body: bytes, lines: bytes = b"") -> Wanted:
    """Returns what any body asks for; ``lines`` are its request's header lines.

    Raises InvalidRequest when it is neither a JSON object with a string `model` nor a form with a field `model`.
    """
    if body.startswith(b"--"):
        return await _read_form(body, lines)
    return wanted_at_once(body) or _wanted(await _walk(body))


def _wanted(document: Any) -> Wanted:
    if type(document) is not dict:
        raise InvalidRequest("The request body must be a JSON object.")
    model = document.get("model")
    if type(model) is str and model:
        stream = document.get("stream")
        return Wanted(model, stream if type(stream) is bool else None)
    if model is None:
        raise InvalidRequest("You must provide a model parameter.", param="model", code="missing_required_parameter")
    raise InvalidRequest("'model' must be a non-empty string: the name of a model from /v1/models.", param="model", code="invalid_type")


async def _read_form(body: bytes, lines: bytes) -> Wanted:
    types = _CONTENT_TYPE.findall(lines)
    parts = await multipart.read_parts(body, multipart.boundary_of(types[0] if len(types) == 1 else b""))
    stream = multipart.field_of(body, parts, "stream", _LONGEST_KEY)
    return _wanted({"model": multipart.field_of(body, parts, "model", _LONGEST_NAME), "stream": stream == "true"})


def _not_json(body: bytes, error: ValueError) -> InvalidRequest:
    if not body:
        return InvalidRequest("The request has no body; send JSON, or a form where the endpoint takes a file, with a `model`.")
    return InvalidRequest(f"The request body is not valid JSON: {error}. Send JSON, or a form that begins with its boundary.")


@dataclass(slots=True)
class Walk:
    """How far a body was walked: ``string`` is the offset of the string that the position is in, or None."""

    position: int = 0
    depth: int = 0
    string: int | None = None
    tokens: int = 0
    found: dict[str, Any] = field(default_factory=dict)

    def on(self, body: bytes, end: int) -> None:
        """Walks on to ``end``, or just before it where that would part an escape from what it escapes."""
        self.position, start = end, self.position
        for token in _TOKEN.finditer(body, start, end):
            self.tokens += 1
            mark = token.group()
            if mark == b"\\" and end < len(body):
                self.position = token.start()
            elif self.string is not None:
                if mark == b'"':
                    self._end_string(body, self.string, token.end())
            elif mark == b'"':
                self.string = token.start()
            elif mark in b"{[":
                self.depth += 1
            elif mark in b"}]":
                self.depth -= 1

    def _end_string(self, body: bytes, start: int, end: int) -> None:
        """Notes the value behind a key that is wanted; one of another shape counts as false, which is refused as a model."""
        self.string = None
        name = _KEYS.get(body[start:end]) if self.depth == 1 and end - start <= _LONGEST_KEY else None
        value = _VALUE.match(body, end) if name else None
        if name and value:
            try:
                self.found[name] = orjson.loads(value.group(1))
            except orjson.JSONDecodeError:
                self.found[name] = False


async def _walk(body: bytes) -> dict[str, Any] | None:
    if body[:1024].lstrip()[:1] != b"{":
        return None
    walk, turn_at, tokens_at = Walk(), 0, 0
    while walk.position < len(body):
        walk.on(body, min(walk.position + _SLICE, len(body)))
        if walk.position - turn_at >= PARSED_BYTES or walk.tokens - tokens_at >= _TURN:
            turn_at, tokens_at = walk.position, walk.tokens
            await asyncio.sleep(0)
    return walk.found
