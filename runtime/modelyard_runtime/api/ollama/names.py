"""Names of models as Ollama's clients write them: with the tag ``:latest`` where they give none."""

from __future__ import annotations

from fastapi import Request

from modelyard_runtime.api.access import runtime_of
from modelyard_runtime.api.admin import Forbidden
from modelyard_runtime.serving.model import ServedModel
from modelyard_runtime.serving.registry import Registry

_LATEST = ":latest"


def plain(registry: Registry, name: str) -> str:
    """Returns the name that the registry knows: the given one, or the one without ``:latest``."""
    known = registry.find(name) is not None or not name.endswith(_LATEST)
    return name if known else name.removesuffix(_LATEST)


def tagged(name: str) -> str:
    """Returns a name with its tag."""
    return name if ":" in name else name + _LATEST


def find(request: Request, name: str) -> ServedModel:
    """Returns a model. Raises ModelNotFound."""
    registry = runtime_of(request).registry
    return registry.resolve(plain(registry, name))


def check_admin(request: Request, what: str) -> None:
    """Raises Forbidden where the server does not let clients change what it has."""
    if not runtime_of(request).settings.ollama_admin:
        raise Forbidden(f"This server does not let its clients {what}. Start it with --ollama-admin, or use /admin on its private port.")
