"""multipart/form-data, read in place: the gateway and the runtime find the same parts in the same bytes, because both ask here.

Stricter than RFC 7578 where what clients send is: no preamble, no padding behind a boundary, no transfer encodings, and a field that is
given twice is refused where one is wanted. Contents are found, not copied: a part is a name and two offsets.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from typing import NamedTuple

from modelyard.api.errors import InvalidRequest

MEDIA_TYPE = b"multipart/form-data"
MAX_PARTS = 64
_MAX_PART_HEAD = 4096
_SLICE = 256 * 1024
# RFC 2046 §5.1.1 for the boundary, RFC 9110 §5.6.6 for parameters.
_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER = re.compile(rb'[ \t]*;[ \t]*(%b)[ \t]*=[ \t]*(?:"((?:[^"\\\r\n]|\\.)*)"|([^\s";]+))' % _TOKEN)
_BOUNDARY = re.compile(rb"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]")
_HARMLESS_CODINGS = (b"binary", b"8bit", b"7bit")


class Part(NamedTuple):
    """A part of a body: ``body[start:end]`` is its content, ``filename`` None where it is a plain field."""

    name: str
    filename: str | None
    start: int
    end: int


def boundary_of(content_type: bytes) -> bytes:
    """Returns the boundary that a content-type header names. Raises InvalidRequest."""
    media_type, parameters = _header_value(content_type)
    boundary = parameters.get(b"boundary", b"")
    if media_type != MEDIA_TYPE or not _BOUNDARY.fullmatch(boundary):
        raise InvalidRequest(
            "The body is read as a form: send content-type: multipart/form-data with the boundary that separates its parts. "
            "HTTP clients set it by themselves.",
            code="invalid_multipart",
        )
    return boundary


async def read_parts(body: bytes, boundary: bytes) -> list[Part]:
    """Returns the parts of a body, giving way to other tasks while it looks through big ones.

    Raises InvalidRequest on a body that is not built as it must be, has more than `MAX_PARTS` parts, or ends before its last boundary.
    """
    found: list[Part] = []
    for part in find_parts(body, boundary):
        if part is None:
            await asyncio.sleep(0)
        elif len(found) == MAX_PARTS:
            raise InvalidRequest(f"The form has more than {MAX_PARTS} parts. Send fewer.", code="invalid_multipart")
        else:
            found.append(part)
    return found


def find_parts(body: bytes, boundary: bytes) -> Iterator[Part | None]:
    """Yields each part, and None whenever another slice of the body has been looked through."""
    opening, delimiter = b"--" + boundary, b"\r\n--" + boundary
    if not body.startswith(opening):
        raise _broken("it does not begin with its boundary")
    position = len(opening)
    while not body.startswith(b"--", position):
        name, filename, start = _part_head(body, position)
        end = -1
        searched = start
        while end < 0:
            if searched >= len(body):
                raise _broken("it ends before its last boundary")
            end = body.find(delimiter, max(start, searched - len(delimiter)), searched + _SLICE)
            searched += _SLICE
            if end < 0:
                yield None
        yield Part(name, filename, start, end)
        position = end + len(delimiter)


def field_of(body: bytes, parts: list[Part], name: str, limit: int) -> str | None:
    """Returns the text of a field, or None where there is none. Raises InvalidRequest when it is given twice, as a file, or too long."""
    given = [part for part in parts if part.name == name]
    if not given:
        return None
    if len(given) > 1:
        raise InvalidRequest(f"'{name}' is given twice. Send it once.", param=name, code="invalid_value")
    return text_of(body, given[0], limit)


def text_of(body: bytes, part: Part, limit: int) -> str:
    """Returns a part's content as text of at most ``limit`` bytes. Raises InvalidRequest."""
    if part.filename is not None:
        raise InvalidRequest(f"'{part.name}' must be a plain field of the form, not a file.", param=part.name, code="invalid_type")
    if part.end - part.start > limit:
        raise InvalidRequest(f"Invalid '{part.name}': longer than {limit} bytes.", param=part.name, code="invalid_value")
    try:
        return body[part.start : part.end].decode()
    except UnicodeDecodeError:
        raise InvalidRequest(f"Invalid '{part.name}': it is not UTF-8.", param=part.name, code="invalid_value") from None


def _part_head(body: bytes, position: int) -> tuple[str, str | None, int]:
    """Returns the name and filename of the part whose head follows the boundary at ``position``, and where its content begins."""
    if not body.startswith(b"\r\n", position):
        raise _broken("a boundary is not followed by a line break")
    end = body.find(b"\r\n\r\n", position, position + _MAX_PART_HEAD)
    if end < 0:
        raise _broken(f"a part's head has no end within {_MAX_PART_HEAD} bytes")
    fields: dict[bytes, bytes] = {}
    for line in body[position + 2 : end].split(b"\r\n"):
        header, colon, value = line.partition(b":")
        if not colon or header.lower() in fields:
            raise _broken("a part's head has a line that is no header, or a header twice")
        fields[header.lower()] = value.strip()
    if fields.get(b"content-transfer-encoding", b"binary").lower() not in _HARMLESS_CODINGS:
        raise _broken("a part has a Content-Transfer-Encoding; send its bytes as they are")
    name, filename = _names(fields.get(b"content-disposition", b""))
    return name, filename, end + 4


def _names(disposition: bytes) -> tuple[str, str | None]:
    kind, parameters = _header_value(disposition)
    name = parameters.get(b"name", b"")
    filename = parameters.get(b"filename", parameters.get(b"filename*"))
    if kind != b"form-data" or not name:
        raise _broken("a part has no Content-Disposition: form-data with a name")
    return name.decode("utf-8", "replace"), None if filename is None else filename.decode("utf-8", "replace")


def _header_value(value: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    """Returns a header's first word in lower case and its parameters; none at all where they cannot be read in one way only."""
    word, separator, _ = value.partition(b";")
    position = len(word)
    parameters: dict[bytes, bytes] = {}
    while separator and position < len(value.rstrip()):
        match = _PARAMETER.match(value, position)
        if match is None or match[1].lower() in parameters:
            return b"", {}
        parameters[match[1].lower()] = re.sub(rb"\\(.)", rb"\1", match[2]) if match[2] is not None else match[3]
        position = match.end()
    return word.strip().lower(), parameters


def _broken(why: str) -> InvalidRequest:
    return InvalidRequest(f"The body is not valid multipart/form-data: {why}.", code="invalid_multipart")
