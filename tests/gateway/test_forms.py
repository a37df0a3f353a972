import asyncio

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from modelyard.api.errors import InvalidRequest
from modelyard.api.multipart import MAX_PARTS, boundary_of, field_of, find_parts, read_parts
from modelyard.gateway.model_name import Wanted, read_wanted

PATH = "/v1/audio/transcriptions"
TYPE = b"content-type: multipart/form-data; boundary=xyz\r\n"


def form(*parts: tuple[str, bytes], boundary: str = "xyz") -> bytes:
    """Returns a form of (content-disposition, content) parts."""
    whole = b"".join(b"--%b\r\n%b\r\n\r\n%b\r\n" % (boundary.encode(), head.encode(), content) for head, content in parts)
    return whole + b"--%b--\r\n" % boundary.encode()


def head(lines: bytes, length: int) -> bytes:
    return b"POST %b HTTP/1.1\r\nhost: gateway\r\n%bcontent-length: %d\r\n\r\n" % (PATH.encode(), lines, length)


def field(name: str) -> str:
    return f'Content-Disposition: form-data; name="{name}"'


MODEL = (field("model"), b"assistant")
FILE = (field("file") + '; filename="a.wav"\r\nContent-Type: audio/wav', bytes(range(256)) * 40)
NAMES = st.sampled_from(["file", "model", 'a"b', "ä;="])
CONTENTS = st.binary(max_size=60) | st.just(b"\r\n--xy\r\n-")


async def test_a_form_goes_to_its_model_byte_for_byte(gateway, replica, connect):
    one = await replica({"text": "hello"})
    client = await connect(await gateway(one))
    request = httpx.Request("POST", "http://x" + PATH, data={"model": "assistant"}, files={"file": ("a.wav", FILE[1])})
    body = request.read()
    head = (
        f"POST {PATH} HTTP/1.1\r\nhost: gateway\r\nContent-Type: {request.headers['content-type']}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    await client.send(head.encode() + body)
    reply = await client.reply()
    assert (reply.status, reply.json()) == (200, {"text": "hello"})
    assert (one.seen[0].target, one.seen[0].body) == (PATH, body)
    assert one.seen[0].headers["content-type"] == request.headers["content-type"]


async def test_a_form_of_twenty_five_megabytes_passes(gateway, replica, connect):
    one = await replica()
    client = await connect(await gateway(one))
    body = form((FILE[0], b"\r\n--xy" * (25_000_000 // 6)), MODEL)
    await client.send(head(TYPE, len(body)) + body)
    assert (await client.reply()).status == 200
    assert one.seen[0].body == body


@pytest.mark.parametrize(("value", "stream"), [(b"true", True), (b"false", False), (b"1", False)])
async def test_a_form_says_whether_it_wants_a_stream(value, stream):
    for parts in ([FILE, MODEL, (field("stream"), value)], [(field("stream"), value), MODEL, FILE]):
        assert await read_wanted(form(*parts), b"host: x\r\nContent-Type:multipart/form-data ; Boundary=xyz\r\n") == Wanted(
            "assistant", stream
        )


async def test_a_big_form_gives_way_to_others():
    body = form((FILE[0], b"\r\n--xy" * 1_000_000), MODEL)
    turns = 0

    async def others():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.ensure_future(others())
    assert (await read_wanted(body, TYPE)).model == "assistant"
    other.cancel()
    assert turns >= len(body) // (512 * 1024)


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.tuples(st.sampled_from(["file", "model", 'a"b', "ä;="]), st.binary(max_size=60) | st.just(b"\r\n--xy\r\n-"))), st.binary()
)
def test_every_part_is_found_as_it_was_sent(parts, epilogue):
    parts = [(name, content) for name, content in parts if b"\r\n--xyz" not in b"\r\n" + content + b"\r\n"]
    body = form(*((field(name.replace('"', '\\"')), content) for name, content in parts))
    if not parts:
        assert list(find_parts(body, b"xyz")) == []
    found = [part for part in find_parts(body + epilogue, b"xyz") if part is not None]
    assert [(part.name, body[part.start : part.end]) for part in found] == parts


@pytest.mark.parametrize(
    ("lines", "body", "says"),
    [
        (b"", form(MODEL), "content-type"),
        (b"content-type: application/json\r\n", form(MODEL), "content-type"),
        (b"content-type: multipart/form-data\r\n", form(MODEL), "boundary"),
        (b"content-type: multipart/form-data; boundary=" + b"x" * 71 + b"\r\n", form(MODEL), "boundary"),
        (b"content-type: multipart/form-data; boundary=xyz; boundary=abc\r\n", form(MODEL), "boundary"),
        (b'content-type: multipart/form-data; boundary="xyz\r\n', form(MODEL), "boundary"),
        (TYPE + TYPE, form(MODEL), "content-type"),
        (TYPE, form(MODEL, boundary="abc"), "begin with its boundary"),
        (TYPE, form(MODEL)[:-9], "ends before its last boundary"),
        (TYPE, form(MODEL)[:30], "no end within"),
        (TYPE, b"--xyz" + b"a" * 5000, "line break"),
        (TYPE, b"--xyz\r\n" + b"a" * 5000, "no end within"),
        (TYPE, b"--xyz\r\n\r\n\r\n--xyz--", "no header"),
        (TYPE, form(("Content-Type: text/plain", b"x")), "no Content-Disposition"),
        (TYPE, form(('Content-Disposition: attachment; name="model"', b"x")), "no Content-Disposition"),
        (TYPE, form(('Content-Disposition: form-data; name="a"; name="model"', b"x")), "no Content-Disposition"),
        (TYPE, form(('Content-Disposition: form-data; name="model', b"x")), "no Content-Disposition"),
        (TYPE, form((MODEL[0] + "\r\n" + MODEL[0], b"x")), "a header twice"),
        (TYPE, form((MODEL[0] + "\r\nContent-Transfer-Encoding: base64", b"x")), "Content-Transfer-Encoding"),
        (TYPE, form(*[(field("x"), b"")] * (MAX_PARTS + 1)), f"more than {MAX_PARTS} parts"),
        (TYPE, form(FILE), "provide a model"),
        (TYPE, form((MODEL[0], b"")), "non-empty string"),
        (TYPE, form(MODEL, MODEL), "given twice"),
        (TYPE, form((MODEL[0] + '; filename="x"', b"assistant")), "not a file"),
        (TYPE, form((MODEL[0], b"\xff")), "not UTF-8"),
        (TYPE, form((MODEL[0], b"x" * 2000)), "longer than"),
    ],
)
async def test_a_form_that_cannot_be_routed_is_refused(lines, body, says):
    with pytest.raises(InvalidRequest, match=says):
        await read_wanted(body, lines)


async def test_a_filename_cannot_pass_for_a_name():
    body = form(('Content-Disposition: form-data; filename="; name=\\"model\\"; x=\\""; name=file', b"other"), MODEL)
    parts = await read_parts(body, boundary_of(b"multipart/form-data; boundary=xyz"))
    assert [part.name for part in parts] == ["file", "model"]
    assert field_of(body, parts, "model", 10) == "assistant"
