"""What a runtime's ``/progress`` says, read from its JSON: the operator asks pods, `modelyard up` its processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from pydantic import ValidationError

from modelyard.api.status import EngineStatus

#: As many phases and capabilities as a status holds.
_MOST = 16


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a start has come. ``fraction`` is a share of 1, None when unknown; ``seconds`` has the phases that have ended.

    ``engine`` is what computes the model, the first of several.
    """

    phase: str = "start"
    fraction: float | None = None
    bytes_done: int = 0
    bytes_total: int = 0
    seconds: tuple[tuple[str, float], ...] = ()
    capabilities: tuple[str, ...] = ()
    engine: EngineStatus | None = None

    @classmethod
    def parse(cls, body: bytes) -> Progress:
        """Reads an answer of ``/progress``. Raises ValueError on anything else."""
        try:
            told = orjson.loads(body)
            fraction = told.get("fraction")
            return cls(
                phase=str(told.get("phase") or cls().phase),
                fraction=None if fraction is None else float(fraction),
                bytes_done=int(told.get("bytesDone") or 0),
                bytes_total=int(told.get("bytesTotal") or 0),
                seconds=tuple((str(phase), float(value)) for phase, value in (told.get("seconds") or {}).items())[:_MOST],
                capabilities=tuple(map(str, told.get("capabilities") or ()))[:_MOST],
                engine=_engine(told.get("models")),
            )
        except (AttributeError, TypeError) as problem:
            raise ValueError(f"not a progress report: {body[:200]!r}") from problem


def _engine(models: Any) -> EngineStatus | None:
    first = next(iter(models.values()), None) if isinstance(models, Mapping) else None
    told = first.get("engine") if isinstance(first, Mapping) else None
    try:
        return EngineStatus.model_validate(told) if told else None
    except ValidationError:  # what another release says is not worth losing the rest of the report
        return None
