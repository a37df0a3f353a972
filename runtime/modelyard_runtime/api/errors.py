"""The one place where exceptions become what clients see."""

from __future__ import annotations

import logging
from typing import Any

import orjson
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from modelyard.api.errors import (
    ApiError,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    PayloadTooLarge,
    Unavailable,
    UnknownPath,
)
from modelyard.api.names import ERROR_CODE_HEADER, OLLAMA_PATH
from modelyard.api.wording import path_of, said
from starlette.exceptions import HTTPException

from modelyard_runtime.engine.base import EngineFailed, RequestTooLarge

logger = logging.getLogger(__name__)

#: Bodies as clients expect them, by pydantic's error types; ``{…}`` are the error's context. Each says what would be right.
_MESSAGES = {
    "string_type": "expected a string",
    "int_type": "expected an integer",
    "int_from_float": "expected an integer",
    "float_type": "expected a number",
    "bool_type": "expected true or false",
    "list_type": "expected an array",
    "dict_type": "expected an object",
    "model_type": "expected an object",
    "model_attributes_type": "expected an object",
    "literal_error": "expected {expected}",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "finite_number": "must be a finite number",
    "too_short": "must have at least {min_length} element(s)",
    "too_long": "must have at most {max_length} element(s)",
    "string_too_short": "must have at least {min_length} character(s)",
    "string_too_long": "must have at most {max_length} character(s)",
}
_TYPES = {
    "string_type",
    "int_type",
    "int_from_float",
    "float_type",
    "bool_type",
    "list_type",
    "dict_type",
    "model_type",
    "model_attributes_type",
}


#: What people look for on the wrong port.
_PRIVATE = ("/metrics", "/progress", "/admin")


def to_api_error(error: BaseException) -> ApiError:
    """Returns what a client sees of an exception. What nobody expected is logged, and says nothing of the inside."""
    match error:
        case ApiError():
            return error
        case RequestValidationError():
            return _invalid(error)
        case RequestTooLarge():
            return InvalidRequest(f"{error}. Shorten the prompt or lower max_tokens.", code="context_length_exceeded")
        case EngineFailed():
            return Unavailable("The engine failed and this server restarts. Send the request again.", code="engine_failed", retry_after=5)
        case HTTPException() if error.status_code < 500:
            return _http(error)
    logger.error("request failed", exc_info=error)
    return InternalError("The server had an error while it processed your request. Its log has the details under this request's id.")


def error_body(error: ApiError, path: str) -> dict[str, Any]:
    """Returns an error as the clients of a path read it: Ollama's below /api/, OpenAI's elsewhere."""
    return {"error": error.message} if path.startswith(OLLAMA_PATH) else error.to_dict()


def error_headers(error: ApiError, path: str) -> dict[str, str]:
    """Returns an error's headers. Ollama's shape has no room for a code, by which gateways know that a server stops."""
    code = {ERROR_CODE_HEADER: error.code} if path.startswith(OLLAMA_PATH) and error.code else {}
    return error.headers() | code


async def handle(request: Request, error: Exception) -> Response:
    """FastAPI's exception handler for everything."""
    api_error = to_api_error(error)
    if isinstance(error, HTTPException) and isinstance(api_error, UnknownPath):  # no endpoint's own, which says more
        api_error = UnknownPath(f"Unknown request URL. {_where(request)}")
    body = orjson.dumps(error_body(api_error, request.url.path))
    return Response(body, api_error.status, error_headers(api_error, request.url.path), "application/json")


def _where(request: Request) -> str:
    """Returns where to look instead: each port has its own paths."""
    if request.app.state.private:
        return "This is the private port: it has /metrics, /progress, and /admin/models, /admin/pulls, /admin/stats and /admin/diagnostics."
    if request.url.path.startswith(_PRIVATE):
        return "That is on the private port of this server, which --metrics-port chooses."
    return "See /v1/models for what is served, and /openapi.json for paths."


def _http(error: HTTPException) -> ApiError:
    if error.status_code == 404:
        return UnknownPath("Unknown request URL.")
    if error.status_code == 405:
        allowed = (error.headers or {})["Allow"]
        return MethodNotAllowed(f"This URL does not take that method. Use {allowed}.", allowed)
    if error.status_code == 413:
        return PayloadTooLarge("The request body is too large. Send less.")
    return InvalidRequest(str(error.detail))


def _invalid(error: RequestValidationError) -> InvalidRequest:
    problem = min(error.errors(), key=_priority)
    kind, context = str(problem["type"]), problem.get("ctx") or {}
    param = str(context.get("param", "")) or _param(problem["loc"])
    if kind == "json_invalid":
        return InvalidRequest(f"The body is not valid JSON: {context.get('error', 'parse error')}.", code="invalid_json")
    if kind == "missing" and not param:
        return InvalidRequest("The request has no body. Send a JSON object, with content-type: application/json.", code="invalid_json")
    if kind == "missing":
        return InvalidRequest(f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter")
    if kind == "extra_forbidden":
        param, hint = _param((*problem["loc"], *([context["field"]] if "field" in context else []))), context.get("hint", "Remove it.")
        return InvalidRequest(f"Unrecognized request argument supplied: {param}. {hint}", param=param, code="unknown_parameter")
    if not param:
        return InvalidRequest("The body must be a JSON object, sent with content-type: application/json.", code="invalid_type")
    return _wrong_value(kind, param, problem, context)


def _wrong_value(kind: str, param: str, problem: Any, context: dict[str, Any]) -> InvalidRequest:
    text = _MESSAGES[kind].format(**context) if kind in _MESSAGES else said(problem)
    code = "invalid_type" if kind in _TYPES else str(context.get("code", "invalid_value"))
    return InvalidRequest(f"Invalid '{param}': {text}{_given(problem.get('input'))}.", param=param, code=code)


def _priority(problem: Any) -> int:
    """Orders problems: an unknown field is often a misspelt one, so that it says more than a missing one."""
    return {"extra_forbidden": 0, "missing": 1}.get(problem["type"], 2)


def _param(location: tuple[int | str, ...]) -> str:
    """Returns ``messages[0].role`` for ("body", "messages", 0, "role"). Parts in angle brackets are tags of unions, no fields."""
    return path_of(part for part in location[1:] if not str(part).startswith("<"))[:200]


def _given(value: object) -> str:
    """Returns what was given, where it is short enough to help."""
    if isinstance(value, bool):
        return f", got {str(value).lower()}"
    if isinstance(value, int | float | str) and len(repr(value)) <= 60:
        return f", got {value!r}"
    return (
        ""
        if isinstance(value, int | float | str)
        else f", got {'null' if value is None else 'an array' if isinstance(value, list) else 'an object'}"
    )
