"""HTTP/1.1 as bytes: the pure functions behind both legs.

Heads are taken apart by httptools and always written anew, with our own framing: nothing that two parsers could read in two ways
passes through. Format: RFC 9112; hop-by-hop fields: RFC 9110 §7.6.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus

from modelyard.api.errors import ApiError
from modelyard.api.names import ENDPOINT_HEADER, MODEL_HEADER, REQUEST_ID_HEADER

HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"te", b"trailer", b"transfer-encoding", b"upgrade")
)
#: Request fields that end here. The key belongs to the gateway: a runtime needs none, so that no log of one can hold it.
REQUEST_ENDS_HERE = HOP_BY_HOP | {
    b"host",
    b"content-length",
    b"expect",
    b"authorization",
    b"proxy-authorization",
    b"cookie",
    REQUEST_ID_HEADER.encode(),
    MODEL_HEADER.encode(),
    ENDPOINT_HEADER.encode(),
    b"x-modelyard-usage",
}
#: Answer fields that end here, to be written anew.
ANSWER_ENDS_HERE = HOP_BY_HOP | {b"content-length", REQUEST_ID_HEADER.encode(), ENDPOINT_HEADER.encode()}

STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
JSON_TYPE = b"content-type: application/json\r\n"
TEXT_TYPE = b"content-type: text/plain; charset=utf-8\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n"
LAST_CHUNK = b"0\r\n\r\n"
CLOSE = b"connection: close\r\n"


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer: the status, its header lines (each with CR LF) and the body."""

    status: int
    lines: bytes
    body: bytes


def status_line(status: int) -> bytes:
    """Returns the status line, for codes unknown to the standard library too."""
    return STATUS_LINES.get(status) or b"HTTP/1.1 %d Unknown\r\n" % status


def chunk(data: bytes) -> bytes:
    """Returns ``data``, which is not empty, as one chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def without_nominated(lines: bytes, connection: bytes) -> bytes:
    """Drops the header lines that the ``Connection`` field names as meant for one hop."""
    nominated = tuple(token.strip() + b":" for token in connection.lower().split(b",") if token.strip())
    return b"".join(line for line in lines.splitlines(keepends=True) if not line.lower().startswith(nominated))


def error_answer(error: ApiError, body: bytes) -> Answer:
    """Returns an error as an answer with the body that its clients expect."""
    lines = b"".join(f"{name}: {value}\r\n".encode() for name, value in error.headers().items())
    return Answer(error.status, JSON_TYPE + lines, body)
