"""The log of every process: one line of JSON for each record, of the same shape everywhere."""

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import Any

#: What a record has by itself, and what uvicorn adds for terminals; everything else in it is an ``extra`` field.
_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}

#: What JSON may hold as it is, and a terminal or a reader of lines takes for a command, an end of the line, or a turn of the direction.
_UNSEEN = re.compile(r"[\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")


def timestamp(seconds: float) -> str:
    """Returns a time since the epoch as ISO 8601 has it, in UTC to the millisecond: 2026-11-21T08:00:00.000+00:00."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


class JsonFormatter(logging.Formatter):
    """Renders a record, its extra fields and its exception as one line."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line."""
        line: dict[str, Any] = {
            "time": timestamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self.context(),
        }
        line |= {name: value for name, value in vars(record).items() if name not in _USUAL}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        written = json.dumps(line, default=str, ensure_ascii=False)
        return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", written)

    def context(self) -> dict[str, str]:
        """Returns what every line that is written now has besides."""
        return {}


def to_stderr(level: int | str, formatter: logging.Formatter) -> None:
    """Sends the records of all loggers from a level up to standard error, and nowhere else."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(level=level, handlers=[handler], force=True)
