"""Media of requests: what may be fetched, and how it is fetched."""

import asyncio
import ssl
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from modelyard_runtime.media.addresses import is_global
from modelyard_runtime.media.media import Media
from pydantic import ValidationError

from .media_kit import RED, media, refusal, settings

LOOPBACK = "127.0.0.1"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


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


async def red(request: web.Request) -> web.Response:
    return web.Response(body=RED, content_type="text/html")


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
        (
            ("example.com",),
            "https://example.com:22/",
            "does not fetch from example.com:22. Send it as a data: URL; it fetches from example.com, at ports 80",
        ),
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


def certified(folder: Path, name: str) -> ssl.SSLContext:
    """Returns a server's context with a certificate for a name that it signed itself."""
    key, subject = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
    begun = datetime.now(UTC) - timedelta(days=1)
    made = made.serial_number(1).not_valid_before(begun).not_valid_after(begun + timedelta(days=9))
    made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "server.pem").write_bytes(secret + made.sign(key, SHA256()).public_bytes(Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    return context


async def test_a_host_with_tls_is_greeted_by_its_name_and_must_prove_it(tmp_path: Path) -> None:
    """The address that was checked is dialled, the name is what TLS asks for; a certificate that nobody vouches for is not believed."""
    greeted: list[str | None] = []
    context = certified(tmp_path, "img.test")
    context.sni_callback = lambda _socket, name, _context: greeted.append(name)
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), LOOPBACK, 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    async with server, media(f"img.test:{port}", names=Names([LOOPBACK]), allow=(LOOPBACK,)) as made:
        error = await refusal(made.image(f"https://img.test:{port}/a.png", "url"))
    assert greeted == ["img.test"]
    assert "did not answer as a web server does" in error.message


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


@pytest.mark.parametrize("name", ["bücher.test", "BÜCHER.test", "xn--bcher-kva.test"])
async def test_a_host_beyond_ascii_is_allowed_as_idna_writes_it(name: str) -> None:
    async with site(red) as port, media(f"xn--bcher-kva.test:{port}", names=Names([LOOPBACK]), allow=(LOOPBACK,)) as made:
        assert (await made.image(f"http://{name}:{port}/", "url")).size == (4, 3)


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
