"""What models there are, as Ollama's clients list them: ``/api/tags``, ``/show``, ``/ps`` and ``/version``."""

from __future__ import annotations

import hashlib
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response
from modelyard.api.names import OLLAMA_VERSION

from modelyard_runtime.api.access import runtime_of
from modelyard_runtime.api.ollama.bodies import ShowBody
from modelyard_runtime.api.ollama.names import find, tagged
from modelyard_runtime.api.responses import json_response
from modelyard_runtime.api.route import UntypedRoute
from modelyard_runtime.serving.model import ServedModel

router = APIRouter(route_class=UntypedRoute)

_FOR_EVER = datetime(9999, 12, 31, tzinfo=UTC)
_CAPABILITIES = {
    "chat": "completion",
    "completions": "completion",
    "vision": "vision",
    "embeddings": "embedding",
}


@router.get("/api/version")
async def version() -> Response:
    """Says which API this is."""
    return json_response({"version": OLLAMA_VERSION})


@router.get("/")
async def root() -> Response:
    """Says that something is here, which is how clients find out."""
    return PlainTextResponse("Modelyard is running")


@router.get("/api/tags")
async def tags(request: Request) -> Response:
    """Lists the models."""
    return json_response({"models": [_listed(model) for model in runtime_of(request).registry.models]})


@router.get("/api/ps")
async def running(request: Request) -> Response:
    """Lists the models that are in memory."""
    models = [model for model in runtime_of(request).registry.models if model.loaded]
    return json_response({"models": [_listed(model) | _in_memory(model) for model in models]})


@router.post("/api/show")
async def show(request: Request, body: ShowBody) -> Response:
    """Describes a model."""
    model = find(request, body.model)
    described = model.describe()
    return json_response(
        {
            "modelfile": f"FROM {model.spec.settings.source}\n",
            "parameters": "",
            "template": "",
            "license": "",
            "details": _details(model),
            "model_info": _info(model, described),
            "capabilities": _capabilities(model, described.get("dialect", {})),
            "modified_at": _when(model),
        }
    )


def _capabilities(model: ServedModel, dialect: dict[str, Any]) -> list[str]:
    """Returns Ollama's words, by which clients decide whether to offer tools and thinking: what the template knows, once it was read."""
    known = dict.fromkeys(_CAPABILITIES[name] for name in model.capabilities if name in _CAPABILITIES)
    tools = ["tools"] if dialect.get("takes_tools") else []
    return [*known, *tools, *(["thinking"] if dialect.get("reasoning_parser", "none") != "none" else [])]


def _listed(model: ServedModel) -> dict[str, Any]:
    name = tagged(model.name)
    # There is no one file whose checksum would be the model's: the source, with its revision, is what tells models apart.
    digest = hashlib.sha256(model.spec.settings.source.encode()).hexdigest()
    listed = {"name": name, "model": name, "modified_at": _when(model), "size": model.facts.size, "digest": digest}
    return listed | {"details": _details(model)}


def _in_memory(model: ServedModel) -> dict[str, Any]:
    on_device = model.spec.settings.device.startswith("cuda")
    left = None if model.keep_alive is None else model.keep_alive - (time.monotonic() - model.last_used)
    expires = _FOR_EVER if left is None else datetime.now(UTC) + timedelta(seconds=max(left, 0.0))
    length = model.service.max_length if model.service is not None else 0
    return {"size_vram": model.memory if on_device else 0, "expires_at": expires.isoformat(), "context_length": length}


def _details(model: ServedModel) -> dict[str, Any]:
    facts = model.facts
    return {
        "parent_model": "",
        "format": "gguf" if model.spec.settings.source.endswith(".gguf") else "safetensors",
        "family": facts.architecture,
        "families": [facts.architecture] if facts.architecture else [],
        "parameter_size": _parameters(facts.parameters),
        "quantization_level": facts.dtype,
    }


def _info(model: ServedModel, described: dict[str, Any]) -> dict[str, Any]:
    family = model.facts.architecture or "model"
    info = {
        "general.architecture": family,
        "general.parameter_count": model.facts.parameters,
        f"{family}.context_length": model.service.max_length if model.service is not None else None,
        f"{family}.embedding_length": described.get("embedding_size"),
    }
    return {name: value for name, value in info.items() if value}


def _parameters(count: int) -> str:
    """Returns 134.5M for 134,515,008, and nothing where it is not known."""
    if not count:
        return ""
    return f"{count / 1e9:.1f}B" if count >= 1_000_000_000 else f"{count / 1e6:.1f}M" if count >= 1_000_000 else f"{count / 1e3:.1f}K"


def _when(model: ServedModel) -> str:
    return datetime.fromtimestamp(model.created, UTC).isoformat()
