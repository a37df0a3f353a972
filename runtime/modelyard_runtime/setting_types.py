"""The kinds of values that settings have: their bounds, and what is said of wrong ones."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from modelyard.api.durations import Duration
from modelyard.api.fields import MEDIA_HOST, RESERVED_VARIABLES
from pydantic import AfterValidator, BeforeValidator, Field


def split(separator: str) -> BeforeValidator:
    """Returns what makes a list of a text with separators in it."""
    return BeforeValidator(lambda value: tuple(part for part in value.split(separator) if part) if isinstance(value, str) else value)


def default_cache() -> Path:
    """Returns where a user's own cache is: where XDG has it, as `modelyard up` does."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "modelyard"


Positive = Annotated[int, Field(ge=1, le=10_000_000)]
Port = Annotated[int, Field(ge=0, le=65_535)]
Timeout = Annotated[Duration, Field(gt=timedelta(0), le=timedelta(days=7))]
SourceText = Annotated[str, Field(min_length=1, max_length=1024)]


def _shaped(pattern: str, words: str) -> AfterValidator:
    """Returns what refuses texts of another shape, in words that say which one is meant."""
    shape = re.compile(pattern)

    def check(value: str) -> str:
        if not shape.fullmatch(value):
            raise ValueError(words)
        return value

    return AfterValidator(check)


_NAMED_SOURCE = "must be name=source, such as pirate=hf://org/name, with a name of letters, digits, '.', '_' and '-'"
_SIZE = "must be an amount with a binary unit, such as 512Mi or 8Gi, or a share from 1% to 100%"
AdapterText = Annotated[str, Field(max_length=1100), _shaped(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}=\S+", _NAMED_SOURCE)]
#: Bytes with a binary unit, or a share of what there is.
Size = Annotated[str, _shaped(r"[1-9]\d{0,14}(Ki|Mi|Gi|Ti)?|[1-9]\d?%|100%", _SIZE)]
_UNITS = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}


def bytes_of(size: str, whole: Callable[[], int]) -> int:
    """Returns the bytes of a `Size`: those of ``8Gi``, or a share such as ``80%`` of ``whole``."""
    if size.endswith("%"):
        return whole() * int(size[:-1]) // 100
    unit = size[-2:]
    return int(size[:-2]) * _UNITS[unit] if unit in _UNITS else int(size)


def shown(count: int) -> str:
    """Returns bytes as people read them: ``1.50 GiB``, ``12 MiB``."""
    return f"{count / (1 << 30):.2f} GiB" if count >= 1 << 30 else f"{count / (1 << 20):.0f} MiB"


Capability = Literal["chat", "completions", "vision", "embeddings", "rerank", "classify", "transcription"]


def _template_variable(name: str) -> str:
    if name in RESERVED_VARIABLES or name.endswith(("_token", "_tokens")):
        raise ValueError("is not for requests to set: it decides what is rendered")
    return name


TemplateVariable = Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z][A-Za-z0-9_]*$"), AfterValidator(_template_variable)]


def _media_host(value: str) -> str:
    if not re.fullmatch(MEDIA_HOST, value):
        raise ValueError("expected a host's name in small letters, *.domain or *, with :port or without")
    return value


def collector_url(value: str) -> str:
    """Returns a collector's URL. Raises ValueError when it is none, or has credentials in it."""
    if not re.fullmatch(r"https?://[^\s@/]+(/\S*)?", value):
        raise ValueError("expected a URL without credentials, such as http://collector:4318")
    return value


MediaHost = Annotated[str, Field(max_length=300), AfterValidator(_media_host)]
