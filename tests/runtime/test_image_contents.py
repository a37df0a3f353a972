"""What an image may be, whatever brings it, and what it becomes."""

import struct
import zlib

import pytest
from PIL import Image

from .media_kit import RED, data_url, encoded, media, refusal


def _jpeg_of_many_scans() -> bytes:
    progressive = encoded(Image.new("RGB", (16, 16), "blue"), "JPEG", progressive=True)
    scan = progressive.rindex(b"\xff\xda")
    return progressive[:scan] + progressive[scan:-2] * 200 + b"\xff\xd9"


def _png_that_claims(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header claims a size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


IMAGE_ROWS = [
    (b"", "no whole PNG"),
    (b"hello", "no whole PNG"),
    (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no whole PNG"),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no whole PNG"),
    (encoded(Image.new("RGB", (4, 4)), "BMP"), "no whole PNG"),
    (encoded(Image.new("RGB", (4, 4)), "TIFF"), "no whole PNG"),
    (encoded(Image.new("RGB", (4, 4)), "ICO"), "no whole PNG"),
    (RED[:20], "no whole PNG"),
    (RED[:-24], "no whole PNG"),
    (encoded(Image.effect_noise((64, 64), 90), "JPEG")[:-400], "no whole PNG"),
    (encoded(Image.effect_noise((64, 64), 90), "WEBP")[:-400], "no whole PNG"),
    (_png_that_claims(30, 40), "30 × 40 pixels, and 1000"),
    (_png_that_claims(60_000, 60_000), "pixels"),
    (_png_that_claims(2**31 - 1, 2**31 - 1), "pixels"),
    (_png_that_claims(10, 10), "no whole PNG"),
    (encoded(Image.new("P", (100, 100)), "GIF"), "100 × 100 pixels"),
    (encoded(Image.new("RGB", (100, 100)), "WEBP"), "100 × 100 pixels"),
    (_jpeg_of_many_scans(), "more than 100 scans"),
]


@pytest.mark.parametrize(("data", "words"), IMAGE_ROWS)
async def test_images_that_are_refused(data: bytes, words: str) -> None:
    async with media(max_image_pixels=4096 if "whole" in words else 1000) as made:
        error = await refusal(made.image(data_url(data), "url"))
    assert words in error.message


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("data:image/png;base64,", "no whole PNG"),
        ("data:image/png,hello", "not in base64"),
        ("data:", "not in base64"),
        ("data:image/png;base64,QUJD\nQUJD", "not valid base64"),
        ("data:image/png;base64,QUJ", "not valid base64"),
        ("data:image/png;base64,QUJDRA", "not valid base64"),
        ("data:image/png;base64,QU-_", "not valid base64"),
        ("data:image/png;base64,QQ==QQ==", "not valid base64"),
        ("data:image/png;base64,é", "not valid base64"),
        (data_url(bytes(5000)), "larger than 4096 bytes"),
    ],
)
async def test_data_urls_that_are_refused(url: str, words: str) -> None:
    async with media(max_media_bytes=4096) as made:
        error = await refusal(made.image(url, "url"))
    assert words in error.message


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
async def test_formats(kind: str) -> None:
    async with media() as made:
        image = await made.image(data_url(encoded(Image.new("RGB", (5, 4), "white"), kind), "text/plain;charset=utf-8"), "url")
    assert (image.size, image.mode, image.getpixel((2, 2))) == ((5, 4), "RGB", (255, 255, 255))


async def test_what_an_image_becomes() -> None:
    turned = Image.new("RGB", (6, 3), "black")
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue", "green")]
    clear = Image.new("RGBA", (2, 2), (0, 0, 0, 0))
    grey16 = Image.new("I;16", (2, 2), 0x8000)
    async with media() as made:
        upright = await made.image(data_url(encoded(turned, "JPEG", exif=exif)), "url")
        first = await made.image(data_url(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])), "url")
        webp = await made.image(data_url(encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)), "url")
        white = await made.image(data_url(encoded(clear)), "url")
        grey = await made.image(data_url(encoded(grey16)), "url")
    assert upright.size == (3, 6)
    assert first.getpixel((1, 1)) == webp.getpixel((1, 1)) == (255, 0, 0)
    assert white.getpixel((0, 0)) == (255, 255, 255)
    assert grey.getpixel((0, 0)) == (128, 128, 128)
