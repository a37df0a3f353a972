"""Where the gateway's own log goes; `access_log` writes that of requests."""

from __future__ import annotations

import logging

from modelyard.api.logs import JsonFormatter


def set_up() -> None:
    """Sends every record from INFO up to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
