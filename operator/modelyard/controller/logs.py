"""Where the operator's log goes."""

import logging

from modelyard.process.logs import JsonFormatter, to_stderr


def configure(level: str) -> None:
    """Sends every logger's records to stderr. kopf tells each event it handles, so only its warnings are let through."""
    to_stderr(level.upper(), JsonFormatter())
    logging.getLogger("kopf").setLevel(logging.WARNING)
