"""Images, and media that tests may fetch from loopback."""

import base64
import io
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager

import pytest
from aiohttp.abc import AbstractResolver
from modelyard.api.errors import InvalidRequest
from modelyard_runtime.media.addresses import is_global
from modelyard_runtime.media.media import Media
from modelyard_runtime.media_settings import MediaSettings
from PIL import Image


def settings(*hosts: str, **more: object) -> MediaSettings:
    return MediaSettings(media_hosts=hosts, **more)  # type: ignore[arg-type]


def encoded(image: Image.Image, kind: str = "PNG", **more: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **more)
    return out.getvalue()


RED = encoded(Image.new("RGB", (4, 3), "red"))


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


@asynccontextmanager
async def media(*hosts: str, names: AbstractResolver | None = None, allow: tuple[str, ...] = (), **more: object) -> AsyncIterator[Media]:
    """Media that may dial what is public, and what a test allows by name."""
    made = Media(settings(*hosts, **more), is_allowed=lambda address: address in allow or is_global(address), resolver=names)
    try:
        yield made
    finally:
        made.close()


async def refusal(asked: Awaitable[object]) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        await asked
    assert caught.value.param == "url"
    return caught.value
