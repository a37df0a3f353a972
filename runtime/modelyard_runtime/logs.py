"""Logs: one line of JSON each, with the id of the request that they belong to."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable
from concurrent.futures import Executor
from contextvars import ContextVar, copy_context
from functools import partial
from typing import TypeVar

from modelyard.process.logs import JsonFormatter, to_stderr

T = TypeVar("T")

#: The id of the request that the current task serves; empty outside of requests.
request_id: ContextVar[str] = ContextVar("request_id", default="")


def new_request_id() -> str:
    """Returns an id for a request that brings none."""
    return f"req-{uuid.uuid4().hex}"


def in_context(work: Callable[[], T]) -> Callable[[], T]:
    """Returns ``work`` as what belongs to the request that is served now, on whatever thread it runs."""
    return partial(copy_context().run, work)


def run_on(threads: Executor, work: Callable[[], T]) -> asyncio.Future[T]:
    """Runs ``work`` on one of the threads, as what belongs to the request that is served now; to be called from the event loop."""
    return asyncio.get_running_loop().run_in_executor(threads, in_context(work))


class RequestFormatter(JsonFormatter):
    """Adds the request that a line belongs to."""

    def context(self) -> dict[str, str]:
        """Returns the request's id."""
        return {"requestId": request_id.get()} if request_id.get() else {}


def configure(level: str) -> None:
    """Sends all logs of the process to stderr as JSON. Libraries speak up from warnings on."""
    to_stderr(logging.WARNING, RequestFormatter())
    logging.getLogger("modelyard_runtime").setLevel(level.upper())
    logging.captureWarnings(True)
