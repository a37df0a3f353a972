"""Request ids: the client's where it sends a sensible one, else one of ours."""

from __future__ import annotations

import itertools
import re
import secrets

_SENSIBLE = re.compile(rb"[A-Za-z0-9._:/=+-]{1,128}")
_OURS = b"req-%b" % secrets.token_hex(8).encode()
_counter = itertools.count(1)


def request_id(given: bytes | None) -> bytes:
    """Returns ``given`` when it fits a log line, else a new id: unique over processes by its random half, and within one by its count."""
    if given is not None and _SENSIBLE.fullmatch(given):
        return given
    return b"%b%08x" % (_OURS, next(_counter))
