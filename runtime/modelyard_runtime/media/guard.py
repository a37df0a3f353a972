"""Fetches what a request points to, so that nobody makes this server ask what they cannot reach themselves.

One parser (yarl) reads a URL for the checks and for the connection alike. A name is resolved once, by the connector itself, and every
address that it has must be a public one; each socket is checked again when it is made, whatever came before. Host and SNI stay the
name's. Proxies from the environment, cookies and compressed bodies are not used, and redirects are new URLs to check.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from modelyard.api.errors import InvalidRequest
from yarl import URL

from modelyard_runtime.media.addresses import is_global
from modelyard_runtime.media_settings import MediaSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aiohttp.typedefs import LooseHeaders

_REDIRECTS = 3
_REDIRECTING = frozenset({301, 302, 303, 307, 308})
_MAX_URL = 4096
_DEFAULT_PORTS = frozenset({80, 443})
_HEADERS: LooseHeaders = {"accept-encoding": "identity", "user-agent": "modelyard"}


class NotAllowed(Exception):
    """An address that is not a public one was about to be dialled."""


class Guard:
    """Fetches bytes from the hosts that the settings allow. ``is_allowed`` says which addresses may be dialled."""

    def __init__(self, settings: MediaSettings, *, is_allowed: Callable[[str], bool] = is_global, resolver: AbstractResolver | None = None):
        self._hosts = settings.media_hosts
        self._max_bytes = settings.max_media_bytes
        self._seconds = settings.media_timeout.total_seconds()
        self._is_allowed = is_allowed
        self._resolver = resolver

    async def fetch(self, text: str, param: str) -> bytes:
        """Returns what a URL has. Raises InvalidRequest, naming ``param``, when it may not be asked or does not answer well."""
        url = self._checked(text, param)
        try:
            async with asyncio.timeout(self._seconds):
                return await self._follow(url, param)
        except TimeoutError:
            raise _refused(f"it did not arrive within {self._seconds:g} s. Send it as a data: URL", param) from None
        except NotAllowed:
            raise _refused("its host has an address that is not public. Send it as a data: URL", param) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # What exactly went wrong stays here: it would tell a client what can be reached from this server.
            raise _refused("its host did not answer as a web server does. Check the URL, or send a data: URL", param) from error

    async def _follow(self, url: URL, param: str) -> bytes:
        async with self._session() as session:
            for _ in range(_REDIRECTS + 1):
                async with session.get(url, allow_redirects=False) as response:
                    if response.status not in _REDIRECTING:
                        return await self._body(response, param)
                    url = self._redirected(url, response, param)
        raise _refused(f"it redirects more than {_REDIRECTS} times. Send the last URL", param)

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[aiohttp.ClientSession]:
        """Makes a session for one fetch: no connection is ever used for a URL that it was not checked for."""
        resolver = _Checked(self._resolver or aiohttp.ThreadedResolver(), self._is_allowed)
        connector = aiohttp.TCPConnector(
            resolver=resolver, use_dns_cache=False, force_close=True, socket_factory=self._socket, ttl_dns_cache=None
        )
        jar = aiohttp.DummyCookieJar()
        async with aiohttp.ClientSession(
            connector=connector, cookie_jar=jar, headers=_HEADERS, auto_decompress=False, trust_env=False
        ) as session:
            yield session

    def _socket(self, address: aiohttp.AddrInfoType) -> socket.socket:
        """Makes the socket for an address that is dialled next: the last word on where it leads."""
        family, kind, protocol, _, where = address
        if not self._is_allowed(str(where[0])):
            raise NotAllowed
        return socket.socket(family, kind, protocol)

    def _redirected(self, url: URL, response: aiohttp.ClientResponse, param: str) -> URL:
        target = response.headers.get("location", "")
        if not target:
            raise _refused("it redirects to nowhere. Check the URL", param)
        absolute = url.join(_parsed(target, param))
        if url.scheme == "https" and absolute.scheme != "https":
            raise _refused("it redirects from https to something weaker. Send the last URL", param)
        return self._checked(str(absolute), param)

    def _checked(self, text: str, param: str) -> URL:
        url = _parsed(text, param)
        if url.scheme not in {"http", "https"} or not url.host:
            raise _refused("it must begin with https://, http:// or data:", param)
        if url.user is not None or url.password is not None:
            raise _refused("it has credentials, which would be sent on. Leave them out", param)
        if not any(_matches(url, pattern) for pattern in self._hosts):
            port = "" if url.is_default_port() else f":{url.port}"
            raise _refused(f"this server does not fetch from {url.host[:100]}{port}. {self._remedy()}", param)
        # A name is resolved later; an address in the URL's own text is judged here.
        if _is_address(url.host) and not self._is_allowed(url.host):
            raise _refused("its host has an address that is not public. Send it as a data: URL", param)
        return url

    def _remedy(self) -> str:
        if not self._hosts:
            return "Send it as a data: URL, or start the server with --media-hosts"
        return f"Send it as a data: URL; it fetches from {', '.join(self._hosts[:10])}, at ports 80 and 443 unless a host has its own"

    async def _body(self, response: aiohttp.ClientResponse, param: str) -> bytes:
        if response.status != 200:
            raise _refused(f"its host answered {response.status}. Check the URL", param)
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise _refused("its host sent it compressed without being asked. Send it as a data: URL", param)
        if (response.content_length or 0) > self._max_bytes:
            raise too_large(self._max_bytes, param)
        chunks, size = [], 0
        async for chunk in response.content.iter_any():
            size += len(chunk)
            if size > self._max_bytes:
                raise too_large(self._max_bytes, param)
            chunks.append(chunk)
        return b"".join(chunks)


class _Checked(AbstractResolver):
    """A resolver that gives out a name's addresses only when each of them may be dialled."""

    def __init__(self, inner: AbstractResolver, is_allowed: Callable[[str], bool]):
        self._inner = inner
        self._is_allowed = is_allowed

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        """Returns a name's addresses. Raises NotAllowed."""
        addresses = await self._inner.resolve(host, port, family)
        if not all(self._is_allowed(address["host"]) for address in addresses):
            raise NotAllowed
        return addresses

    async def close(self) -> None:
        """Lets go of what it held."""
        await self._inner.close()


def too_large(limit: int, param: str) -> InvalidRequest:
    """Returns the error for media of too many bytes."""
    return _refused(f"it is larger than {limit} bytes, which is the limit. Send a smaller one", param)


def _refused(why: str, param: str) -> InvalidRequest:
    return InvalidRequest(f"The media of '{param}' cannot be used: {why}.", param=param, code="invalid_media_url")


def _parsed(text: str, param: str) -> URL:
    if len(text) > _MAX_URL:
        raise _refused(f"its URL is longer than {_MAX_URL} characters. Send a shorter one", param)
    try:
        url = URL(text)
        _ = url.port, url.host  # read here, so that what is wrong with them is found here
    except (ValueError, TypeError):
        raise _refused("it is not a URL. Send https://… or data:…", param) from None
    return url


def _matches(url: URL, pattern: str) -> bool:
    """Whether a pattern allows a URL: ``host`` or ``*.domain`` or ``*``, at the usual ports, or with ``:port`` at that one."""
    host, _, port = pattern.rpartition(":") if ":" in pattern else (pattern, "", "")
    ports = {int(port)} if port else _DEFAULT_PORTS
    name = (url.raw_host or "").rstrip(".").lower()  # letters beyond ASCII as IDNA writes them, which is how patterns name them
    if url.port not in ports:
        return False
    return host == "*" or (name.endswith(host[1:]) and len(name) >= len(host) if host.startswith("*.") else name == host)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
