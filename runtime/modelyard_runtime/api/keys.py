"""API keys: which paths need one, and whether a request brings a right one. Keys are compared in constant time and never kept as text."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterable
from pathlib import Path

from modelyard.api.errors import AuthenticationFailed
from pydantic import SecretStr
from starlette.types import ASGIApp, Receive, Scope, Send

from modelyard_runtime.errors import ArgumentsInvalid

_MAX_BYTES = 1 << 20
OPEN_PATHS = frozenset({"/health", "/ready"})


def read(file: Path | None, one: SecretStr | None, flag: str) -> tuple[bytes, ...]:
    """Returns the digests of the keys of a file, one a line, and of one more. Raises ArgumentsInvalid on a file without any."""
    keys = [one.get_secret_value()] if one else []
    if file is not None:
        try:
            lines = file.read_bytes()[:_MAX_BYTES].decode().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ArgumentsInvalid(f"{flag}: cannot read {file}: {getattr(error, 'strerror', None) or 'not text'}") from error
        found = [line.strip() for line in lines if line.strip()]
        if not found:
            raise ArgumentsInvalid(f"{flag}: {file} holds no key", "put one key a line into it")
        keys += found
    return tuple(_digest(key.encode()) for key in keys)


class Keys:
    """Lets requests pass that bring a key, in ``authorization: Bearer …`` or ``x-api-key``, or that need none."""

    def __init__(self, app: ASGIApp, digests: Iterable[bytes], needed: Callable[[str], bool]):
        self._app = app
        self._digests = tuple(digests)
        self._needed = needed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request. Raises AuthenticationFailed."""
        if self._digests and self._needed(scope["path"]) and not self._right(_given(scope)):
            raise AuthenticationFailed("The API key is missing or wrong. Send it as 'authorization: Bearer KEY'.")
        await self._app(scope, receive, send)

    def _right(self, given: bytes) -> bool:
        """Compares with every key, so that the time says nothing of which one is close."""
        digest = _digest(given)
        return sum(hmac.compare_digest(digest, known) for known in self._digests) > 0


def public_needs(path: str) -> bool:
    """Whether a path of the public port needs a key: all but the probes do."""
    return path not in OPEN_PATHS


def private_needs(path: str) -> bool:
    """Whether a path of the private port needs a key: /admin does, metrics and progress do not."""
    return path == "/admin" or path.startswith("/admin/")


def _given(scope: Scope) -> bytes:
    headers: dict[bytes, bytes] = dict(scope["headers"])
    scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
    return key.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"")


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
