"""The catalogue of `builtin://` models."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Annotated, Literal

import yaml
from modelyard.api.wording import nearest
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from modelyard_runtime.errors import WeightsNotFound


class Wheel(BaseModel):
    """A wheel that carries weights. ``path`` is a file in it, or a folder when it ends in a slash; sizes are in bytes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    package: str
    version: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size: int
    path: str
    space: int


class Entry(BaseModel):
    """A model of the catalogue: fetched as a wheel, or made on the spot."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    summary: str
    licence: str
    wheel: Wheel | None = None
    made: Literal["chat", "embed", "rerank", "classify", "vision"] | None = None


@cache
def catalogue() -> dict[str, Entry]:
    """Returns the catalogue, by name."""
    text = files(__package__).joinpath("catalogue.yaml").read_text()
    return TypeAdapter(dict[str, Entry]).validate_python(yaml.safe_load(text))


def lookup(name: str) -> Entry:
    """Returns an entry. Raises WeightsNotFound, naming those that exist."""
    entry = catalogue().get(name)
    if entry is None:
        meant = nearest(name, catalogue())
        choice = f"did you mean builtin://{meant}? There are" if meant else "choose one of"
        raise WeightsNotFound(f"there is no builtin model called {name!r}", f"{choice}: {', '.join(sorted(catalogue()))}")
    return entry
