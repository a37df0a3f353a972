"""``/admin/models/NAME/adapters`` on the private port: LoRA adapters of a model that serves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, cast

from fastapi import APIRouter, Request
from fastapi.responses import Response
from modelyard.api.errors import InvalidRequest, ModelNotFound
from pydantic import Field

from modelyard_runtime.api.access import runtime_of
from modelyard_runtime.api.admin import source_refusals
from modelyard_runtime.api.fields import Body
from modelyard_runtime.api.responses import json_response
from modelyard_runtime.api.route import StrictRoute
from modelyard_runtime.errors import RuntimeFailed
from modelyard_runtime.progress import Step
from modelyard_runtime.serving.pulls import check_source
from modelyard_runtime.setting_types import SourceText

if TYPE_CHECKING:  # it imports PyTorch
    from modelyard_runtime.serving.generation import GenerationService

router = APIRouter(prefix="/admin/models/{model:path}/adapters", route_class=StrictRoute)

_MOST = 64


class AdapterBody(Body):
    """An adapter to load: requests will ask for it as ``model:name``."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
    source: SourceText


@router.get("")
async def adapters(request: Request, model: str) -> Response:
    """Lists a model's adapters. Raises ModelNotFound or InvalidRequest."""
    async with _held(request, model) as service:
        return json_response({"object": "list", "data": list(service.adapters)})


@router.post("")
async def load(request: Request, model: str, body: AdapterBody) -> Response:
    """Fetches an adapter and puts it in force, in place of an earlier one of its name.

    Raises ModelNotFound, InvalidRequest, or Forbidden where --allow-pull does not name the source.
    """
    runtime = runtime_of(request)
    with source_refusals(runtime):
        check_source(body.source, runtime.settings)
    async with _held(request, model) as service:
        if len(service.adapters) >= _MOST and body.name not in service.adapters:
            raise InvalidRequest(f"The model has {_MOST} adapters, which is the limit. Remove one first.", param="name")
        try:
            await asyncio.to_thread(service.load_adapter, body.name, body.source, _quiet)
        except RuntimeFailed as failure:
            raise InvalidRequest(f"{failure.message}: {failure.remedy}.", param="source", code="invalid_adapter") from failure
        return json_response({"object": "list", "data": list(service.adapters)})


@router.delete("/{name}")
async def unload(request: Request, model: str, name: str) -> Response:
    """Forgets an adapter; requests that run with it finish with it. Raises ModelNotFound."""
    async with _held(request, model) as service:
        if name not in service.adapters:
            raise ModelNotFound(f"The model '{model[:200]}' has no adapter '{name[:64]}'.", param="name")
        service.unload_adapter(name)
        return json_response({"object": "list", "data": list(service.adapters)})


@asynccontextmanager
async def _held(request: Request, model: str) -> AsyncIterator[GenerationService]:
    """Holds a loaded generation model while its adapters are dealt with. Raises ModelNotFound, InvalidRequest or Unavailable."""
    registry = runtime_of(request).registry
    served = registry.named(model)
    with served.held():
        await registry.ready(served)
        if not hasattr(served.service, "adapters"):
            raise InvalidRequest(f"The model '{served.name}' takes no LoRA adapters: it generates no text.", param="model")
        yield cast("GenerationService", served.service)


def _quiet(_step: Step) -> None:
    """Nobody looks at the progress of an adapter: it is small."""
