"""Bodies that are forms with a file: read in place, bounded, and checked as strictly as JSON is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from modelyard.api.errors import InvalidRequest
from modelyard.api.multipart import Part, boundary_of, read_parts, text_of
from pydantic import BaseModel, ConfigDict, ValidationError

_FIELD_BYTES = 16 * 1024
#: What a form may weigh besides its file.
OVERHEAD = 256 * 1024
_FILE = "file"


class Form(BaseModel):
    """A form's fields; their values come as text. A list's name ends in ``[]``, and one field of an object is ``name[field]``."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_by_name=True, validate_by_alias=True)


F = TypeVar("F", bound=Form)


async def read_form(request: Request, kind: type[F]) -> tuple[F, bytes]:
    """Returns a request's fields and its file. Raises InvalidRequest or RequestValidationError."""
    body = await request.body()
    parts = await read_parts(body, boundary_of(request.headers.get("content-type", "").encode("latin-1")))
    fields = _fields(body, [part for part in parts if part.name != _FILE])
    try:
        form = kind.model_validate(fields)
    except ValidationError as error:
        raise RequestValidationError([{**one, "loc": ("body", *one["loc"])} for one in error.errors()]) from None
    return form, _file(body, [part for part in parts if part.name == _FILE])


def form_schema(kind: type[Form]) -> dict[str, Any]:
    """Returns what OpenAPI says of an endpoint's body."""
    schema = kind.model_json_schema()
    schema["properties"][_FILE] = {"type": "string", "format": "binary"}
    schema["required"] = [*schema["required"], _FILE]
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


def _fields(body: bytes, parts: Sequence[Part]) -> Mapping[str, Any]:
    """Returns the fields by name, lists and objects put together. An empty field is one left out, as clients write forms."""
    fields: dict[str, Any] = {}
    for part in parts:
        text = text_of(body, part, _FIELD_BYTES)
        name, bracket, key = part.name.removesuffix("]").partition("[")
        if not text:
            continue
        if bracket and not key:
            fields.setdefault(part.name, []).append(text)
        elif bracket:
            inner = fields.setdefault(name, {})
            if not isinstance(inner, dict) or key in inner:
                raise _twice(part.name)
            inner[key] = text
        elif name in fields:
            raise _twice(name)
        else:
            fields[name] = text
    return fields


def _file(body: bytes, parts: Sequence[Part]) -> bytes:
    if not parts:
        raise InvalidRequest("Missing required parameter: 'file'.", param=_FILE, code="missing_required_parameter")
    if len(parts) > 1:
        raise _twice(_FILE)
    if parts[0].filename is None:
        raise InvalidRequest("'file' must be a file of the form: give the part a filename.", param=_FILE, code="invalid_type")
    return body[parts[0].start : parts[0].end]


def _twice(name: str) -> InvalidRequest:
    return InvalidRequest(f"'{name[:200]}' is given twice. Send it once.", param=name[:200], code="invalid_value")
