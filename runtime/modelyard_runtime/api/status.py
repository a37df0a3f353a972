"""``/v1/models``, ``/version``, ``/health`` and ``/ready`` on the public port; ``/metrics`` and ``/progress`` on the private one."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response
from modelyard import __version__

from modelyard_runtime.api.access import runtime_of
from modelyard_runtime.api.responses import json_response
from modelyard_runtime.serving.model import ServedModel

public = APIRouter()
private = APIRouter()


@public.get("/v1/models")
async def models(request: Request) -> Response:
    """Lists the models."""
    shown = [entry for model in runtime_of(request).registry.models for entry in (model.describe(), *_adapters(model))]
    return json_response({"object": "list", "data": shown})


def _adapters(model: ServedModel) -> list[dict[str, object]]:
    """Returns an entry for each adapter, as vLLM lists them: its parent is the model."""
    return [_adapter(model, f"{model.name}:{name}") for name in model.adapters]


def _adapter(model: ServedModel, name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": model.created, "owned_by": "modelyard", "parent": model.name}


@public.get("/v1/models/{name:path}")
async def model(request: Request, name: str) -> Response:
    """Describes a model, or an adapter of one. Raises ModelNotFound."""
    found = runtime_of(request).registry.resolve(name)
    return json_response(found.describe() if name in found.spec.names else _adapter(found, name))


@public.get("/version")
async def version() -> Response:
    """Says which release this is."""
    return json_response({"version": __version__})


@public.get("/health")
async def health(request: Request) -> Response:
    """Says whether the process works: loading is work, a dead engine is not."""
    failure = runtime_of(request).failure
    if failure is not None:
        return json_response({"status": "failed", "reason": failure.reason, "message": failure.message}, 503)
    return json_response({"status": "ok"})


@public.get("/ready")
async def ready(request: Request) -> Response:
    """Says whether new requests are welcome, and how each model and each of its capabilities stands."""
    runtime = runtime_of(request)
    models = {model.name: {"status": model.lifecycle.state, "capabilities": _capabilities(model)} for model in runtime.registry.models}
    return json_response({"status": runtime.phase, "models": models}, 200 if runtime.ready else 503)


def _capabilities(model: ServedModel) -> dict[str, dict[str, str]]:
    """Returns how each capability stands, and its warm-up: none before there was one."""
    warmed = model.lifecycle.warmup
    return {
        name: {"status": model.lifecycle.state, "warmup": str(warmed.get(name, {}).get("state", "none"))} for name in model.capabilities
    }


@private.get("/metrics")
async def metrics(request: Request) -> Response:
    """Returns Prometheus' text format."""
    return Response(runtime_of(request).exposition.render(), media_type="text/plain; version=0.0.4; charset=utf-8")


@private.get("/progress")
async def progress(request: Request) -> Response:
    """Returns how far the start has come."""
    return json_response(runtime_of(request).progress())
