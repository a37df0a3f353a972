"""Words for people that more than one part needs."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any


def said(problem: Mapping[str, Any]) -> str:
    """Returns what one of pydantic's errors says, without the name of the exception that it was raised as."""
    return str(problem["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")


def path_of(location: Iterable[int | str]) -> str:
    """Returns where one of pydantic's errors is, as the API server writes it: ``messages[0].role``."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Returns the known word that was most likely meant, or None where none is close."""
    return next(iter(get_close_matches(word, sorted(known), n=1, cutoff=0.7)), None)
