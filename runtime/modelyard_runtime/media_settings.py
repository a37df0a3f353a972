"""Settings of the images, other media and recordings that requests bring: groups of `settings.ServeSettings`."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from pydantic import BaseModel, Field
from pydantic_settings import NoDecode

from modelyard_runtime.setting_types import MediaHost, Size, Timeout, split


class MediaSettings(BaseModel):
    """What images and other media of requests may be."""

    media_hosts: Annotated[tuple[MediaHost, ...], NoDecode, split(",")] = Field(
        default=(),
        max_length=1000,
        description=(
            "Hosts that media may be fetched from: name, *.domain or *, at ports 80 and 443 or with :port (repeatable). "
            "Only public addresses are asked. None when left out: clients send data: URLs."
        ),
    )
    max_media_bytes: Annotated[int, Field(ge=1024, le=1 << 30)] = Field(
        default=16 << 20, description="Largest image or other file, in bytes."
    )
    media_timeout: Timeout = Field(default=timedelta(seconds=10), description="Longest time to fetch one, redirects included.")
    max_images: Annotated[int, Field(ge=1, le=1000)] = Field(default=16, description="Images of one request at most.")
    max_image_pixels: Annotated[int, Field(ge=1, le=89_478_485)] = Field(
        default=33_554_432, description="Largest image, in pixels; judged before it is decoded."
    )
    max_image_memory: Size = Field(
        default="20%",
        description="Memory for the images of all requests, as they are read, as 2Gi or a share of the machine's or the container's; then "
        "503.",
    )


class AudioSettings(BaseModel):
    """What recordings of requests may be."""

    max_audio_bytes: Annotated[int, Field(ge=1024, le=1 << 30)] = Field(
        default=25 << 20, description="Largest audio file, in bytes; then 413. Gateways have a bound of their own (32 MiB)."
    )
    max_audio_seconds: Annotated[int, Field(ge=1, le=86_400)] = Field(
        default=3600, description="Longest recording; one takes 32 KB of memory for each second, and twice that while it is decoded."
    )
    audio_timeout: Timeout = Field(
        default=timedelta(seconds=60), description="Longest time on the processor to decode one and find speech in it."
    )
