"""Where the operator's log goes."""

import logging
import sys

from modelyard.api.logs import JsonFormatter


def configure(level: str) -> None:
    """Sends every logger's records to stderr. kopf tells each event it handles, so only its warnings are let through."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("kopf").setLevel(logging.WARNING)
