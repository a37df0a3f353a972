"""What counts as speech."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """A probability of speech; the seconds of silence that end it; the seconds kept around it."""

    threshold: float = 0.5
    silence: float = 2.0
    padding: float = 0.4
