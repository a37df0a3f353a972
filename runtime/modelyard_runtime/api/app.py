"""The two applications of a process: the public one that clients and probes use, and the private one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from modelyard import __version__
from modelyard.api.errors import ApiError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from modelyard_runtime.api import adapters, admin, audio, chat, classify, completions, embeddings, keys, rerank, status, tokens
from modelyard_runtime.api.errors import handle
from modelyard_runtime.api.forms import OVERHEAD
from modelyard_runtime.api.middleware import AccessLog, Bounds, Heads, Leases
from modelyard_runtime.api.ollama import router as ollama
from modelyard_runtime.api.openapi import documented
from modelyard_runtime.api.openresponses import router as responses
from modelyard_runtime.engine.base import EngineFailed, RequestTooLarge
from modelyard_runtime.observation import Ended
from modelyard_runtime.serving.runtime import Runtime

_HANDLED = (ApiError, RequestValidationError, HTTPException, RequestTooLarge, EngineFailed, Exception)


def public_app(runtime: Runtime) -> ASGIApp:
    """Returns the application of the public port. Raises ArgumentsInvalid when its keys cannot be read."""
    digests = keys.read(runtime.settings.api_key_file, runtime.settings.api_key, "--api-key-file")
    watchers: list[Callable[[Ended], None]] = [lambda ended: runtime.exposition.answered(ended.scope["method"], ended.route, ended.status)]
    if runtime.tracing is not None:
        watchers.append(runtime.tracing.record)
    guard = partial(keys.Keys, digests=digests, needed=keys.public_needs)
    return _guarded(
        runtime,
        guard,
        watchers,
        chat.router,
        completions.router,
        responses.router,
        embeddings.router,
        rerank.router,
        classify.router,
        audio.router,
        tokens.router,
        ollama.router,
        status.public,
    )


def private_app(runtime: Runtime) -> ASGIApp:
    """Returns the application of the private port. Raises ArgumentsInvalid when its keys cannot be read."""
    digests = keys.read(runtime.settings.admin_key_file, runtime.settings.admin_key, "--admin-key-file")
    guard = partial(keys.Keys, digests=digests, needed=keys.private_needs)
    return _guarded(runtime, guard, (), status.private, adapters.router, admin.router, private=True)


def _guarded(
    runtime: Runtime,
    guard: Callable[[ASGIApp], ASGIApp],
    watchers: Sequence[Callable[[Ended], None]],
    *routers: APIRouter,
    private: bool = False,
) -> ASGIApp:
    app = documented(FastAPI(title="Modelyard runtime", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False))
    app.state.runtime, app.state.private = runtime, private
    for router in routers:
        app.include_router(router)
    for error in _HANDLED:
        app.add_exception_handler(error, handle)
    routes = [context.original_route for context in iter_route_contexts(app.routes)]
    settings = runtime.settings
    bounded = Bounds(
        Leases(Heads(app)),
        max_body_bytes=settings.max_body_bytes,
        max_buffered_bytes=settings.max_buffered_bytes,
        body_timeout=settings.body_timeout.total_seconds(),
        request_timeout=settings.request_timeout.total_seconds(),
        larger=dict.fromkeys(audio.PATHS, settings.max_audio_bytes + OVERHEAD),
    )
    return AccessLog(guard(bounded), closing=lambda: runtime.draining, watchers=watchers, routes=routes)
