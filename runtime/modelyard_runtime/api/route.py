"""Routes whose bodies are strict JSON: no NaN, no Infinity, no lone surrogates, nesting bounded. Some read it under any name."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.types import Scope

from modelyard_runtime import strict_json


class StrictRequest(Request):
    """A request whose JSON is read strictly."""

    async def json(self) -> Any:
        """Returns the body's value. Raises json.JSONDecodeError, which FastAPI makes a validation error of."""
        encoding = self.headers.get("content-encoding", "identity")
        if encoding.lower() != "identity":
            raise strict_json.refused(f"its content-encoding is {encoding[:40]!r}, and only plain bodies are read; send it uncompressed")
        return strict_json.loads(await self.body())


class StrictRoute(APIRoute):
    """A route of strict requests."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Returns FastAPI's handler, given strict requests."""
        handler = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handler(StrictRequest(self.read_as(request), request.receive))

        return strict

    def read_as(self, request: Request) -> Scope:
        """Returns the scope that a request is read by."""
        return request.scope


class UntypedRoute(StrictRoute):
    """A route whose bodies are JSON whatever their type is called, as Ollama's server reads what `curl -d` sends.

    Not from a browser, which names the page that asks: any page may send a form to any address without asking there first, JSON it may not.
    """

    def read_as(self, request: Request) -> Scope:
        """Returns the scope with the type that the body has."""
        if "origin" in request.headers:
            return request.scope
        headers = [(name, value) for name, value in request.scope["headers"] if name != b"content-type"]
        return {**request.scope, "headers": [*headers, (b"content-type", b"application/json")]}
