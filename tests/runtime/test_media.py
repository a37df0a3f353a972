"""Media of requests: what may be fetched, how it is fetched, and what an image may be."""

import asyncio
import base64
import io
import struct
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from modelyard.api.errors import InvalidRequest
from modelyard_runtime.media.addresses import is_global
from modelyard_runtime.media.media import Media
from modelyard_runtime.settings import MediaSettings
from PIL import Image
from pydantic import ValidationError

LOOPBACK = "127.0.0.1"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def settings(*hosts: str, **more: object) -> MediaSettings:
    return MediaSettings(media_hosts=hosts, **more)  # type: ignore[arg-type]


def encoded(image: Image.Image, kind: str = "PNG", **more: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **more)
    return out.getvalue()


RED = encoded(Image.new("RGB", (4, 3), "red"))


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


class Names(AbstractResolver):
    """A resolver that answers from lists, one list for each question; the last one repeats."""

    def __init__(self, *answers: list[str]):
        self.asked = 0
        self._answers = answers

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
        answer = self._answers[min(self.asked, len(self._answers) - 1)]
        self.asked += 1
        return [ResolveResult(hostname=host, host=one, port=port, family=2, proto=6, flags=0) for one in answer]

    async def close(self) -> None:
        pass


@asynccontextmanager
async def site(handler: Handler) -> AsyncIterator[int]:
    """Serves on loopback and yields the port."""
    server = web.Server(handler, handler_cancellation=True)
    runner = web.ServerRunner(server, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, LOOPBACK, 0).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@asynccontextmanager
async def media(*hosts: str, names: Names | None = None, allow: tuple[str, ...] = (), **more: object) -> AsyncIterator[Media]:
    """Media that may dial what is public, and what a test allows by name."""
    made = Media(settings(*hosts, **more), is_allowed=lambda address: address in allow or is_global(address), resolver=names)
    try:
        yield made
    finally:
        made.close()


async def red(request: web.Request) -> web.Response:
    return web.Response(body=RED, content_type="text/html")


async def refusal(asked: Awaitable[object]) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        await asked
    assert caught.value.param == "url"
    return caught.value


PUBLIC = ["1.1.1.1", "8.8.8.8", "2606:4700:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8", "2002:808:808::1"]
PRIVATE = [
    "127.0.0.1",
    "127.8.8.8",
    "0.0.0.0",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "192.0.2.1",
    "198.18.0.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "fe80::1",
    "fe80::1%eth0",
    "fc00::1",
    "fd00:ec2::254",
    "ff02::1",
    "2001:db8::1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "::10.0.0.1",
    "64:ff9b::a00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::808:808",
    "2002:a00:1::1",
    "2002:7f00:1::1",
    "2001:0:808:808:0:0:f5ff:fffe",
]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses(address: str) -> None:
    assert is_global(address)


@pytest.mark.parametrize("address", PRIVATE)
def test_other_addresses(address: str) -> None:
    assert not is_global(address)


@pytest.mark.parametrize(
    ("hosts", "url", "words"),
    [
        ((), "https://example.com/a.png", "start the server with --media-hosts"),
        ((), "ftp://example.com/a.png", "must begin with https://"),
        ((), "file:///etc/passwd", "must begin with https://"),
        ((), "/etc/passwd", "must begin with https://"),
        ((), "http://", "must begin with https://"),
        ((), "http://[::1", "not a URL"),
        ((), "http://a:99999/", "not a URL"),
        ((), "https://example.com/" + "a" * 5000, "longer than 4096"),
        (("example.com",), "https://user:secret@example.com/", "credentials"),
        (("example.com",), "https://user@example.com/", "credentials"),
        (("example.com",), "https://example.com@evil.org/", "credentials"),
        (("example.com",), "https://evil.org#@example.com/", "does not fetch from evil.org"),
        (("example.com",), "https://evil.org\\@example.com/", ""),
        (("example.com",), "https://example.com:22/", "does not fetch from example.com"),
        (("example.com",), "https://example.com.evil.org/", "fetches from example.com"),
        (("example.com",), "https://notexample.com/", "does not fetch"),
        (("*.example.com",), "https://example.com/", "does not fetch"),
        (("*.example.com",), "https://.example.com/", ""),
        (("*",), "http://127.0.0.1/", "not public"),
        (("*",), "http://169.254.169.254/latest/meta-data", "not public"),
        (("*",), "http://[::1]/", "not public"),
        (("*",), "http://[::ffff:10.0.0.1]/", "not public"),
        (("*",), "http://[64:ff9b::a00:1]/", "not public"),
        (("*",), "http://[fe80::1%25eth0]/", ""),
        (("*",), "http://2130706433/", ""),
        (("*",), "http://0177.0.0.1/", ""),
        (("*",), "http://0x7f.1/", ""),
        (("*",), "http://127.1/", ""),
        (("*",), "http://localhost/", ""),
        (("*",), "http://１２７.0.0.1/", ""),
    ],
)
async def test_urls_that_are_refused(hosts: tuple[str, ...], url: str, words: str) -> None:
    async with media(*hosts) as made:
        error = await refusal(made.image(url, "url"))
    assert words in error.message
    assert error.code == "invalid_media_url"
    assert "secret" not in error.message


@pytest.mark.parametrize("pattern", ["", "https://a.b", "a b", "*.*", "a:0", "a:x", "user@a", "A.B"])
def test_patterns_that_are_refused(pattern: str) -> None:
    with pytest.raises(ValidationError):
        settings(pattern)


async def test_an_allowed_host_is_asked_with_its_name() -> None:
    hosts: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        hosts.append(request.headers["host"])
        return await red(request)

    async with site(handler) as port, media(f"img.test:{port}", names=Names([LOOPBACK]), allow=(LOOPBACK,)) as made:
        image = await made.image(f"http://img.test:{port}/a.png", "url")
    assert (image.size, image.mode, image.getpixel((0, 0))) == ((4, 3), "RGB", (255, 0, 0))
    assert hosts == [f"img.test:{port}"]


@pytest.mark.parametrize("answer", [[LOOPBACK], ["8.8.8.8", LOOPBACK], ["::ffff:10.0.0.1"], ["169.254.169.254"]])
async def test_a_name_needs_public_addresses_alone(answer: list[str]) -> None:
    names = Names(answer)
    async with media("*", names=names) as made:
        error = await refusal(made.image("http://img.test/a.png", "url"))
    assert "not public" in error.message
    assert names.asked == 1


async def test_an_answer_that_changes_is_never_asked_for_twice() -> None:
    """DNS rebinding: what was checked is what is dialled."""
    names = Names([LOOPBACK], ["169.254.169.254"])
    async with site(red) as port, media(f"img.test:{port}", names=names, allow=(LOOPBACK,)) as made:
        await made.image(f"http://img.test:{port}/", "url")
        assert names.asked == 1
        error = await refusal(made.image(f"http://img.test:{port}/", "url"))
    assert "not public" in error.message


async def test_the_socket_is_checked_even_when_the_resolver_was_not() -> None:
    """The last check does not trust the ones before it."""
    answers = iter([True, False])
    made = Media(settings("img.test"), is_allowed=lambda _: next(answers), resolver=Names([LOOPBACK]))
    error = await refusal(made.image("http://img.test/", "url"))
    made.close()
    assert "not public" in error.message


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("http://127.0.0.2/", "not public"),
        ("http://169.254.169.254/latest/meta-data", "not public"),
        ("http://[::ffff:10.0.0.1]/", "not public"),
        ("//169.254.169.254/", "not public"),
        ("http://user:pw@img.test/", "credentials"),
        ("file:///etc/passwd", "must begin with"),
        ("http://img.test:22/", ""),
        ("/loop", "more than 3 times"),
        ("", "nowhere"),
        ("http://[", "not a URL"),
    ],
)
async def test_redirects_are_checked_like_any_url(target: str, words: str) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"location": target} if target else {})

    async with site(handler) as port, media("*", f"*:{port}", names=Names([LOOPBACK]), allow=(LOOPBACK,)) as made:
        error = await refusal(made.image(f"http://img.test:{port}/", "url"))
    assert words in error.message


async def test_a_redirect_to_an_allowed_host_is_followed() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return await red(request) if request.path == "/b" else web.Response(status=301, headers={"location": "/b"})

    async with site(handler) as port, media(f"img.test:{port}", names=Names([LOOPBACK]), allow=(LOOPBACK,)) as made:
        assert (await made.image(f"http://img.test:{port}/a", "url")).size == (4, 3)


async def _silent(request: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


async def _drips(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"\x89PNG")
    await asyncio.Event().wait()
    return response


async def _endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(bytes(65536))


async def _large(request: web.Request) -> web.Response:
    return web.Response(body=bytes(5000))


async def _missing(request: web.Request) -> web.Response:
    return web.Response(status=404, body=RED)


async def _zipped(request: web.Request) -> web.Response:
    return web.Response(body=zlib.compress(bytes(10_000_000)), headers={"content-encoding": "deflate"})


async def _page(request: web.Request) -> web.Response:
    return web.Response(text="<svg/>", content_type="image/png")


@pytest.mark.parametrize(
    ("handler", "words"),
    [
        (_silent, "did not arrive within 0.3 s"),
        (_drips, "did not arrive within 0.3 s"),
        (_endless, "larger than 4096 bytes"),
        (_large, "larger than 4096 bytes"),
        (_missing, "answered 404"),
        (_zipped, "compressed"),
        (_page, "no whole PNG"),
    ],
)
async def test_hosts_that_misbehave(handler: Handler, words: str) -> None:
    limits = {"media_timeout": "0.3s", "max_media_bytes": 4096}
    async with site(handler) as port, media(f"img.test:{port}", names=Names([LOOPBACK]), allow=(LOOPBACK,), **limits) as made:
        error = await refusal(made.image(f"http://img.test:{port}/", "url"))
    assert words in error.message


async def test_a_closed_port_says_little() -> None:
    async with site(red) as port:
        pass
    async with media("*", f"*:{port}", names=Names([LOOPBACK]), allow=(LOOPBACK,)) as made:
        error = await refusal(made.image(f"http://img.test:{port}/", "url"))
    assert "did not answer as a web server does" in error.message
    assert LOOPBACK not in error.message


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
        white = await made.image_of_base64(base64.b64encode(encoded(clear)).decode(), "url")
        grey = await made.image(data_url(encoded(grey16)), "url")
    assert upright.size == (3, 6)
    assert first.getpixel((1, 1)) == webp.getpixel((1, 1)) == (255, 0, 0)
    assert white.getpixel((0, 0)) == (255, 255, 255)
    assert grey.getpixel((0, 0)) == (128, 128, 128)
