"""A model's eyes: from the images of a request to what stands for them in its prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from modelyard.api.errors import InvalidRequest, Unavailable

from modelyard_runtime.hardware import memory_limit
from modelyard_runtime.leases import leases
from modelyard_runtime.media.media import Media as Fetcher
from modelyard_runtime.models.prompt import Picture
from modelyard_runtime.models.vision import Pixels, Vision
from modelyard_runtime.room import Room, Share
from modelyard_runtime.serving.bounds import Bounds
from modelyard_runtime.serving.workers import Workers
from modelyard_runtime.setting_types import bytes_of
from modelyard_runtime.settings import ServeSettings

if TYPE_CHECKING:  # they import PyTorch
    from modelyard_runtime.engine.media import Media


class Sight:
    """The image side of a model, on a thread of its own: one request at a time. Used from one event loop; close it at the end.

    ``decoders`` threads decode images and cut them up.
    """

    def __init__(self, vision: Vision, settings: ServeSettings, bounds: Bounds, decoders: int):
        self._vision = vision
        self._bounds = bounds
        self._fetcher = Fetcher(settings, threads=decoders)
        self._most = settings.max_images
        self._room = Room(bytes_of(settings.max_image_memory, memory_limit))
        self._worker = Workers("vision", 1, waiting=settings.max_queue, timeout=settings.queue_timeout.total_seconds())

    async def look(self, prompt: Sequence[int], pictures: Sequence[Picture]) -> tuple[list[int], Pixels]:
        """Returns the prompt with room for its images, and the images cut up. Raises InvalidRequest, TooManyRequests or Unavailable.

        What they take of the memory for images is leased.
        """
        if len(pictures) > self._most:
            raise InvalidRequest(
                f"This server takes {self._most} images in a request at most, and this one has {len(pictures)}. Send fewer.",
                param=pictures[self._most].param,
                code="too_many_images",
            )
        share = Share(self._room)
        leases().callback(share.give_back)
        seen = await self._seen(pictures, share)

        def expand() -> tuple[list[int], Pixels]:
            pixels = Pixels.joined(seen, share)
            return self._vision.expand(prompt, pixels), pixels

        return await self._worker.run(expand)

    async def _seen(self, pictures: Sequence[Picture], share: Share) -> list[Pixels]:
        """Returns the images cut up, none read behind the one that is too much. Memory is taken for what the tower makes of them too."""
        seen: list[Pixels] = []
        tokens = 0
        for picture in pictures:
            seen.append(await self._fetcher.made(picture.url, picture.param, self._vision.pixels))
            tokens += self._vision.tokens(seen[-1])
            self._bounds.check_images(tokens, picture.param)
            _take(share, seen[-1].size + self._vision.size(seen[-1]), picture.param)
        return seen

    async def media(self, prompt: Sequence[int], pixels: Pixels) -> Media:
        """Runs the model's tower for a prompt that has room for its images, which are used up. Raises TooManyRequests or Unavailable."""
        media = await self._worker.run(lambda: self._vision.media(prompt, pixels))
        if pixels.share is not None:
            pixels.share.give_back(pixels.size)
        return media

    def close(self) -> None:
        """Ends the threads; what they do is waited for."""
        self._fetcher.close()
        self._worker.close()


def _take(share: Share, count: int, param: str) -> None:
    """Takes bytes for an image. Raises InvalidRequest where they are too many for any request, Unavailable where others have them."""
    if share.held + count > share.most:
        raise InvalidRequest(
            f"The images up to '{param}' take {share.held + count} bytes as they are read, and this server has {share.most} for images "
            "(--max-image-memory). Send fewer or smaller ones.",
            param=param,
            code="images_too_large",
        )
    if not share.take(count):
        raise Unavailable("This server holds as many images in memory as it may. Send the request again.", code="overloaded", retry_after=1)
