"""``/openapi.json``: FastAPI's document of the requests, with what the endpoints answer and the errors that they share."""

from __future__ import annotations

from functools import lru_cache, partial
from importlib.resources import files
from typing import Any

import yaml
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from modelyard_runtime.api.keys import OPEN_PATHS

Document = dict[str, Any]

_JSON = "application/json"
_EVENTS = "text/event-stream"
#: One of a stream's events, as OpenAPI 3.2 describes them (https://spec.openapis.org/oas/v3.2.0.html#server-sent-event-streams). Before,
#: a `schema` is the whole text's to some tools and each event's to others.
_EVENT = {
    "type": "object",
    "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
    "required": ["data"],
}
_ERRORS = {
    400: "The request is wrong; the error names the field and the remedy.",
    401: "A key is needed.",
    403: "The settings do not allow it.",
    404: "The model, or the path, is not here.",
    405: "The path has other methods.",
    408: "The request came too slowly.",
    413: "The request is too large.",
    415: "The body's media type is not the endpoint's.",
    429: "As many requests wait as may. Send it again later.",
    431: "The headers are too large.",
    500: "The server failed.",
    501: "The operation is not offered.",
    503: "The model is being loaded, or the server stops. Send it again later.",
    504: "The answer took too long.",
}


def documented(app: FastAPI) -> FastAPI:
    """Gives an application its document, made when it is first asked for."""
    app.openapi = lru_cache(1)(partial(_document, app))  # type: ignore[method-assign]
    return app


def _document(app: FastAPI) -> Document:
    document: Document = get_openapi(title=app.title, version=app.version, routes=app.routes, description=_DESCRIPTION)
    known: Document = yaml.safe_load((files(__package__) / "answers.yaml").read_text())
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    schemas |= known["schemas"]
    for path, operations in document["paths"].items():
        answers = known["answers"].get(path)
        for operation in operations.values():
            operation["responses"] = _responses(path, answers)
    return document


_DESCRIPTION = "OpenAI's API, and Ollama's, for the models of one server."


def _responses(path: str, answers: Document | None) -> Document:
    ollama = path == "/" or path.startswith("/api/")
    error = _content(_JSON, "OllamaError" if ollama else "Error")
    responses = {str(status): {"description": text, "content": error} for status, text in _ERRORS.items()}
    if path in OPEN_PATHS:
        responses = {"503": {"description": "Not now.", "content": _content(_JSON, "Status")}}
    return {"200": {"description": "The answer.", **({"content": _contents(answers)} if answers else {})}, **responses}


def _contents(answers: Document) -> Document:
    contents: Document = {}
    if "json" in answers:
        contents |= _content(_JSON, answers["json"])
    for kind in ("text", "stream"):
        if kind in answers:
            contents[answers[kind]] = {"itemSchema": _EVENT} if answers[kind] == _EVENTS else {"schema": {"type": "string"}}
    return contents


def _content(media_type: str, schema: str | None) -> Document:
    return {media_type: {"schema": {"$ref": f"#/components/schemas/{schema}"} if schema else {"type": "object"}}}
