"""How long a model stays in memory after a request, where clients may say so."""

from __future__ import annotations

from fastapi import Request

from modelyard_runtime.api.access import runtime_of
from modelyard_runtime.api.ollama.names import check_admin
from modelyard_runtime.serving.model import ServedModel


def keep(request: Request, model: ServedModel, seconds: float | None) -> None:
    """Notes how long a model is to stay once nobody uses it; negative is for ever. Without effect where clients have no say."""
    if seconds is not None and runtime_of(request).settings.ollama_admin:
        model.keep_alive = None if seconds < 0 else seconds


async def unload(request: Request, model: ServedModel) -> None:
    """Unloads a model once nobody uses it. Raises Forbidden where clients have no say."""
    check_admin(request, "unload models")
    await model.idle.wait()
    await runtime_of(request).registry.unload(model, "asked for")
