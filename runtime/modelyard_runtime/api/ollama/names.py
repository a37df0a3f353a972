"""Names of models as Ollama's clients write them: with the tag ``:latest`` where they give none."""

from __future__ import annotations

from fastapi import Request
from modelyard.api.errors import Forbidden
from modelyard.api.names import MODEL_HEADER

from modelyard_runtime.api.access import runtime_of
from modelyard_runtime.serving.model import ServedModel

_LATEST = ":latest"


def tagged(name: str) -> str:
    """Returns a name with its tag."""
    return name if ":" in name else name + _LATEST


def plain(request: Request, name: str) -> str:
    """Returns a name without ``:latest``, unless a model is called so; what else follows a colon names an adapter of the model."""
    return name if runtime_of(request).registry.find(name) else name.removesuffix(_LATEST)


def find(request: Request, name: str) -> ServedModel:
    """Returns the model that a name means, or the gateway says it means. Raises ModelNotFound."""
    return runtime_of(request).registry.resolve(plain(request, name), request.headers.get(MODEL_HEADER))


def check_admin(request: Request, what: str) -> None:
    """Raises Forbidden where the server does not let clients change what it has."""
    if not runtime_of(request).settings.ollama_admin:
        raise Forbidden(f"This server does not let its clients {what}. Start it with --ollama-admin, or use /admin on its private port.")
