"""What the gateway itself writes into streams, and how errors look: OpenAI's server-sent events, or Ollama's lines of JSON.

Ollama's clients parse every line, an empty one too, so that a comment or a line break would end them. A space before the next line is
part of that line, and JSON lets it be.
"""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from modelyard.api.errors import ApiError
from modelyard.api.names import OLLAMA_PATH

_OLLAMA = OLLAMA_PATH.encode()
#: The endpoints of Ollama's API that stream; they do so unless they are told not to.
_STREAMED = frozenset((b"/api/chat", b"/api/generate"))


@dataclass(frozen=True, slots=True)
class Stream:
    """A kind of stream. ``keepalive`` means nothing to a client; ``ends`` are those of what another event may follow at once."""

    content_type: bytes
    keepalive: bytes
    before: bytes
    after: bytes
    ends: tuple[bytes, ...]

    @property
    def lines(self) -> bytes:
        """The header lines of such an answer."""
        return b"content-type: %b\r\ncache-control: no-cache\r\n" % self.content_type

    def event(self, document: bytes, tail: bytes = b"") -> bytes:
        """Returns a document as an event behind what ended with ``tail``, which may be in the middle of another one."""
        separator = b"" if not tail or tail.endswith(self.ends) else self.after
        return b"%b%b%b%b" % (separator, self.before, document.replace(b"\n", b" ").strip(), self.after)


SSE = Stream(b"text/event-stream; charset=utf-8", b": waiting for a replica\n\n", b"data: ", b"\n\n", (b"\n\n", b"\r\n\r\n"))
NDJSON = Stream(b"application/x-ndjson", b" ", b"", b"\n", (b"\n", b" "))

_PREFIX = len(b"text/event-stream")
#: Streams by the beginning of their type: one look, on the way of every answer.
_BY_PREFIX = {stream.content_type[:_PREFIX]: stream for stream in (SSE, NDJSON)}


def of_type(content_type: bytes) -> Stream | None:
    """Returns the kind of stream that a ``Content-Type`` says, or None."""
    return _BY_PREFIX.get(content_type[:_PREFIX].lower())


def asked_for(target: bytes, stream: bool | None) -> Stream | None:
    """Returns the stream that a request asks for, or None when it wants a whole answer; ``stream`` is what its body says, if anything."""
    if not target.startswith(_OLLAMA):
        return SSE if stream else None
    return NDJSON if stream is not False and target.partition(b"?")[0] in _STREAMED else None


def error_body(error: ApiError, target: bytes) -> bytes:
    """Returns an error in the shape that clients of its path expect."""
    return orjson.dumps({"error": error.message}) if target.startswith(_OLLAMA) else error.to_json()
