"""Durations as Kubernetes writes them: ``90s``, ``5m``, ``1h30m``, ``500ms``."""

import re
from datetime import timedelta
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

from modelyard.api.markers import Rule

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
PATTERN = r"^([0-9]{1,5}([.][0-9]{1,3})?(ms|s|m|h)){1,4}$"  # for Python, RE2 and within the range of CEL's durations


def parse(text: object) -> timedelta:
    """Parses a duration; raises ValueError, naming the format, on anything else (a bare number has no unit)."""
    if isinstance(text, timedelta):
        return text
    if not isinstance(text, str) or not re.match(PATTERN, text):
        raise ValueError("must be a duration with a unit, such as 30s, 5m or 1h30m")
    return timedelta(seconds=sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text)))


def render(value: timedelta) -> str:
    """Renders a duration in the largest unit that divides it."""
    milliseconds = round(value.total_seconds() * 1000)
    for unit, size in (("h", 3_600_000), ("m", 60_000), ("s", 1000)):
        if milliseconds % size == 0 and milliseconds:
            return f"{milliseconds // size}{unit}"
    return f"{milliseconds}ms" if milliseconds else "0s"


Duration = Annotated[
    timedelta,
    BeforeValidator(parse),
    PlainSerializer(render, return_type=str),
    WithJsonSchema({"type": "string", "maxLength": 32}),
]


def between(least: str, most: str) -> Rule:
    """Returns the rule that a duration has a unit and lies within two bounds, themselves included."""
    bounds = f"duration(self) >= duration('{least}') && duration(self) <= duration('{most}')"
    return Rule(
        f"self.matches('{PATTERN}') && {bounds}", f"must be a duration from {least} to {most} with a unit, such as 30s, 5m or 1h30m"
    )
