"""Where libraries written in Rust give up: what they raise is no Exception, so that it would pass by everybody who catches one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from modelyard.api.errors import InvalidRequest

#: The class that pyo3 makes for each library: https://docs.rs/pyo3/latest/pyo3/panic/struct.PanicException.html.
_PANIC = "PanicException"


class Panicked(Exception):
    """A library gave up on what it was given; its own words."""


@contextmanager
def caught() -> Iterator[None]:
    """Raises Panicked where a library gives up in the block."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != _PANIC:
            raise
        raise Panicked(str(error)) from error


@contextmanager
def reading(param: str) -> Iterator[None]:
    """Raises InvalidRequest, naming ``param``, where a tokenizer gives up on a text, as patterns with a bound on their steps do."""
    try:
        with caught():
            yield
    except Panicked as error:
        raise InvalidRequest(
            f"The model's tokenizer gives up on the text of '{param}': {error}. Change the text, or send less of it.",
            param=param,
            code="invalid_value",
        ) from error
