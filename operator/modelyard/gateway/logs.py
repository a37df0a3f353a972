"""The process's own log: one line of JSON per record, on standard error."""

from __future__ import annotations

import logging
import traceback
from typing import Any

import orjson


class JsonFormatter(logging.Formatter):
    """Renders a record as one line."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line; an exception's trace is one field of it."""
        line: dict[str, Any] = {
            "time": record.created,
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["trace"] = "".join(traceback.format_exception(*record.exc_info))
        return orjson.dumps(line).decode()


def set_up() -> None:
    """Sends every record from INFO up to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
