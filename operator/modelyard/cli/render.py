"""Tables of plain text, as kubectl prints them. No colours, no imports that take time."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

_COLUMNS = ("NAME", "READY", "REASON", "REPLICAS", "SOURCE", "URL", "AGE")
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def resources(models: Sequence[Mapping[str, Any]], *, wide: bool = False, now: datetime | None = None) -> str:
    """Returns the table of `kubectl get im`; with ``wide`` the engine and the reason's message too.

    The namespace shows when there are several.
    """
    if not models:
        return "No models run."
    several = len({model["metadata"]["namespace"] for model in models}) > 1
    head = (*(("NAMESPACE",) if several else ()), *_COLUMNS, *(("ENGINE", "MESSAGE") if wide else ()))
    rows = [_row(model, several, wide, now or datetime.now(UTC)) for model in models]
    return table([head, *rows])


def table(rows: Sequence[Sequence[str]]) -> str:
    """Returns rows in aligned columns, three spaces apart."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def age(seconds: float) -> str:
    """Returns an age as kubectl writes it: 31s, 4m, 3h, 12d."""
    whole = max(0, int(seconds))
    if whole < 2 * _MINUTE:
        return f"{whole}s"
    if whole < 2 * _HOUR:
        return f"{whole // _MINUTE}m"
    return f"{whole // _HOUR}h" if whole < 2 * _DAY else f"{whole // _DAY}d"


def _row(model: Mapping[str, Any], several: bool, wide: bool, now: datetime) -> tuple[str, ...]:
    metadata, status = model["metadata"], model["status"]
    ready: Mapping[str, Any] = next((one for one in status["conditions"] if one["type"] == "Ready"), {})
    created = datetime.fromisoformat(metadata["creationTimestamp"])
    return (
        *((metadata["namespace"],) if several else ()),
        metadata["name"],
        ready.get("status", "Unknown"),
        ready.get("reason", ""),
        str(status["readyReplicas"]),
        model["spec"]["model"]["source"],
        status["url"],
        age((now - created).total_seconds()),
        *((_engine(status.get("engine") or {}), ready.get("message", "")) if wide else ()),
    )


def _engine(engine: Mapping[str, Any]) -> str:
    """Returns what computes a model, and why not another engine: as much as a cell holds."""
    if not engine:
        return ""
    known = [engine["device"], engine["dtype"], *((engine["quantization"],) if engine["quantization"] != "none" else ())]
    known += [f"{count} {kernel}" for kernel, count in engine["kernels"].items()]
    tried = "".join(f"; not {one['name']}: {one['why']}" for one in engine["tried"])
    return f"{engine['name']} ({', '.join(filter(None, known))}){tried}"
