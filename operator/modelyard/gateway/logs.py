"""Where the gateway's own log goes; `access_log` writes that of requests."""

from __future__ import annotations

import logging

from modelyard.process.logs import JsonFormatter, to_stderr


def set_up() -> None:
    """Sends every record from INFO up to standard error."""
    to_stderr(logging.INFO, JsonFormatter())
