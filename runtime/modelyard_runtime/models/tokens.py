"""What single tokens are, as bytes and as the strings that log probabilities show."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE = "\u2581"


class TokenBytes:
    """Bytes of a tokenizer's tokens, by its decoder: a byte-level alphabet, byte fallback, or plain pieces.

    The bytes of an answer's tokens, put together, are its text in UTF-8; only tokenizers that drop a text's first space differ there.
    """

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self._byte_level = _is_byte_level(tokenizer)
        self._added = {index: str(token.content).encode() for index, token in tokenizer.added_tokens_decoder.items()}

    def of(self, token: int) -> bytes:
        """Returns the bytes of a token; none for an id that the tokenizer does not have."""
        if token in self._added:
            return self._added[token]
        piece = self._tokenizer.convert_ids_to_tokens(token)
        if piece is None:
            return b""
        alphabet = _alphabet()
        if self._byte_level and all(sign in alphabet for sign in piece):
            return bytes(alphabet[sign] for sign in piece)
        byte = _BYTE.fullmatch(piece)
        return bytes([int(byte[1], 16)]) if byte else str(piece).replace(_SPACE, " ").encode()


def shown(data: bytes) -> str:
    """Returns a token's bytes as text, or escaped, as OpenAI shows them, where they are a character's part: ``\\xf0\\x9f``."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "".join(f"\\x{byte:02x}" for byte in data)


@lru_cache(maxsize=1)
def _alphabet() -> dict[str, int]:
    """Returns the signs of GPT-2's byte-level alphabet: printable Latin-1 stands for itself, the other bytes for signs from U+0100 on.

    https://github.com/openai/gpt-2/blob/master/src/encoder.py
    """
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(plain)]
    return {chr(byte): byte for byte in plain} | {chr(0x100 + index): byte for index, byte in enumerate(others)}


def _is_byte_level(tokenizer: Any) -> bool:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return backend is not None and backend.decoder is not None and b"ByteLevel" in backend.decoder.__getstate__()
