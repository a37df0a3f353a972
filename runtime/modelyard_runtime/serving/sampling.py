"""Sampling of requests that do not say: the settings first, then what came with the weights, then OpenAI's defaults."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

from modelyard_runtime.errors import UnsupportedModel, WeightsNotFound
from modelyard_runtime.model_files import read_object
from modelyard_runtime.settings import GenerationSettings

logger = logging.getLogger(__name__)

#: What is read of a generation_config.json: our name, and the bounds that a request has too. A bound's type is the value's.
_BOUNDS: dict[str, tuple[str, int | float, int | float]] = {
    "temperature": ("temperature", 0.0, 2.0),
    "top_p": ("top_p", 1e-9, 1.0),
    "top_k": ("top_k", 0, 1_000_000),
    "min_p": ("min_p", 0.0, 1.0),
    "repetition_penalty": ("repetition_penalty", 0.01, 10.0),
    "max_new_tokens": ("max_tokens", 1, 10_000_000),
}


@dataclass(frozen=True, slots=True)
class SamplingDefaults:
    """What a request gets for each field that it leaves out. ``max_tokens`` None leaves it to the endpoint."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    max_tokens: int | None = None


def sampling_defaults(folder: Path, settings: GenerationSettings) -> SamplingDefaults:
    """Returns the defaults of a model's folder under the settings."""
    defaults = SamplingDefaults()
    if settings.generation_config == "auto":
        defaults = replace(defaults, **_from_weights(folder / "generation_config.json"))
    asked: dict[str, Any] = {
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "top_k": settings.top_k,
        "min_p": settings.min_p,
        "repetition_penalty": settings.repetition_penalty,
        "max_tokens": settings.default_max_tokens,
    }
    return replace(defaults, **{name: value for name, value in asked.items() if value is not None})


def _from_weights(path: Path) -> dict[str, Any]:
    """Returns what the file says; what is out of bounds is left out and logged: a request that said it would be refused."""
    try:
        config = read_object(path)
    except (UnsupportedModel, WeightsNotFound) as refusal:
        logger.warning("%s, and is not used", refusal.message)
        return {}
    said = {name: config[name] for name in _BOUNDS if config.get(name) is not None}
    taken = {}
    for name, value in said.items():
        field, least, most = _BOUNDS[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            logger.warning("%s: %s = %r is out of bounds and is not used", path.name, name, value)
        else:
            taken[field] = type(most)(value)
    return taken


def taken(defaults: SamplingDefaults, takes: Collection[str]) -> SamplingDefaults:
    """Returns the defaults without those that what runs the model does not take."""
    kept = {name: getattr(defaults, name) for name in takes if hasattr(defaults, name)}
    return replace(SamplingDefaults(max_tokens=defaults.max_tokens), **kept)


def choice_seed(seed: int | None, choice: int) -> int | None:
    """Returns the seed of one of a request's choices: the first has the request's, the others one of their own that follows from it."""
    if seed is None or choice == 0:
        return seed
    return int.from_bytes(blake2b(f"{seed} {choice}".encode(), digest_size=8).digest(), "little", signed=True)
