"""From what a request says to an image: fetched or unpacked, decoded off the event loop, a bounded number at once."""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from aiohttp.abc import AbstractResolver
from modelyard.api.errors import InvalidRequest
from PIL.Image import Image

from modelyard_runtime.logs import run_on
from modelyard_runtime.media.addresses import is_global
from modelyard_runtime.media.guard import Guard, too_large
from modelyard_runtime.media.images import decode
from modelyard_runtime.media_settings import MediaSettings
from modelyard_runtime.serving.limiter import Limiter

_AT_ONCE = 16
_WAITING = 256
# https://www.rfc-editor.org/rfc/rfc2397; the media type is not looked at, for the content says what it is.
_DATA_URL = re.compile(r"data:[\w.+/-]{0,100}(?:;[\w.+-]{1,40}=[\w.+-]{1,100}){0,4};base64,", re.ASCII | re.IGNORECASE)
T = TypeVar("T")


class Media:
    """Images from URLs. Used from one event loop; `close` ends its ``threads``, which decode."""

    def __init__(
        self,
        settings: MediaSettings,
        *,
        threads: int = 2,
        is_allowed: Callable[[str], bool] = is_global,
        resolver: AbstractResolver | None = None,
    ):
        self._settings = settings
        self._guard = Guard(settings, is_allowed=is_allowed, resolver=resolver)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="media")
        self._limiter = Limiter(concurrency=_AT_ONCE, max_queue=_WAITING, queue_timeout=settings.media_timeout.total_seconds())

    async def image(self, url: str, param: str) -> Image:
        """Returns the image behind a data:, https: or http: URL, in RGB and upright.

        Raises InvalidRequest, naming ``param``; TooManyRequests or Unavailable when too many images are asked for at once.
        """
        return await self.made(url, param, lambda image, _: image)

    async def made(self, url: str, param: str, make: Callable[[Image, str], T]) -> T:
        """Returns what ``make`` makes of the image, and of ``param``, on the thread that decodes it. Raises as `image` does.

        A file of 100 KB may be 130 MB of pixels: this way there are never more of them in memory than there are threads.
        """

        def decoded(data: bytes) -> T:
            return make(decode(data, self._settings.max_image_pixels, param), param)

        async with self._limiter.slot():
            return await run_on(self._threads, partial(decoded, await self._bytes(url, param)))

    async def fetch(self, url: str, param: str) -> bytes:
        """Returns the bytes behind a URL. Raises as `image` does."""
        async with self._limiter.slot():
            return await self._bytes(url, param)

    def close(self) -> None:
        """Ends the threads; an image that is being decoded is waited for."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    async def _bytes(self, url: str, param: str) -> bytes:
        if url[:5].lower() != "data:":
            return await self._guard.fetch(url, param)
        head = _DATA_URL.match(url)
        if head is None:
            message = f"The data: URL of '{param}' is not in base64. Send data:image/png;base64,…"
            raise InvalidRequest(message, param=param, code="invalid_media_url")
        return await run_on(self._threads, partial(self._unpack, url[head.end() :], param))

    def _unpack(self, text: str, param: str) -> bytes:
        if len(text) // 4 * 3 > self._settings.max_media_bytes + 2:
            raise too_large(self._settings.max_media_bytes, param)
        try:
            return binascii.a2b_base64(text, strict_mode=True)
        except (binascii.Error, ValueError):
            message = f"'{param}' is not valid base64. Send the standard alphabet with padding, without line breaks."
            raise InvalidRequest(message, param=param, code="invalid_base64") from None
