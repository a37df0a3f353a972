"""The head of a GGUF file: the library reads whatever there is behind it, and says only after most of a minute that it was not all.

The layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import GGML_QUANT_SIZES

from modelyard_runtime.errors import WeightsNotFound

_MAGIC = b"GGUF"
_REMEDY = "check that it was downloaded whole"
#: Bytes of each kind of value that has a fixed size.
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_UINT32, _STRING, _ARRAY = 4, 8, 9
_ALIGNMENT = b"general.alignment"
#: Bytes, as the format has it.
_LONGEST_KEY = 65_535
_MOST_DIMENSIONS = 4
#: What reading past a file's end raises, near and far.
_BEHIND_THE_END = (struct.error, OverflowError, EOFError)


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of so many ``numbers``. Its data ends ``end`` bytes behind the begin of all data."""

    numbers: int
    end: int


def stored(file: Path) -> list[Tensor]:
    """Returns a file's tensors; none where its head makes no sense, for the library says what does not.

    Raises WeightsNotFound for what is no GGUF file, cannot be read, or ends before what its head tells of.
    """
    try:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _read(data)
    except OSError as error:
        raise WeightsNotFound(f"{file} cannot be read: {error.strerror or error}") from error
    except ValueError:
        raise WeightsNotFound(f"{file} is not a GGUF file", _REMEDY) from None
    except _BEHIND_THE_END:
        raise WeightsNotFound(f"{file} ends too early, after {file.stat().st_size} bytes", _REMEDY) from None
    except (KeyError, RecursionError):
        return []


class _Cursor:
    """Reads on from place to place, first what is behind the magic. Files in the other order of bytes show it in their version."""

    def __init__(self, data: mmap.mmap):
        self._data = data
        self._order = "<"
        self.at = 4
        (version,) = self.take("I")
        if not version & 0xFFFF:
            self._order = ">"

    def take(self, form: str) -> tuple[Any, ...]:
        values = struct.unpack_from(self._order + form, self._data, self.at)
        self.at += struct.calcsize(self._order + form)
        return values

    def text(self) -> bytes:
        """Goes behind a text, and returns it where it is as short as a key."""
        (length,) = self.take("Q")
        self.at += length
        return self._data[self.at - length : self.at] if length <= _LONGEST_KEY else b""

    def skip(self, kind: int) -> None:
        """Goes behind a value. Raises KeyError for a kind that there is not."""
        if kind == _STRING:
            self.text()
        elif kind == _ARRAY:
            of, count = self.take("IQ")
            if of in _SIZES:
                self.at += _SIZES[of] * count
            else:
                for _ in range(count):
                    self.skip(of)
        else:
            self.at += _SIZES[kind]


def _read(data: mmap.mmap) -> list[Tensor]:
    """Returns the tensors. Raises ValueError for another format, EOFError and the like for half a file, KeyError for unknown kinds."""
    if data[: len(_MAGIC)] != _MAGIC:
        raise ValueError
    cursor = _Cursor(data)
    tensors, keys = cursor.take("QQ")
    alignment = 32
    for _ in range(keys):
        key, (kind,) = cursor.text(), cursor.take("I")
        if key == _ALIGNMENT and kind == _UINT32:
            (alignment,) = cursor.take("I")
        else:
            cursor.skip(kind)
    found = [_tensor(cursor) for _ in range(tensors)]
    begin = -(-cursor.at // max(1, alignment)) * alignment
    if any(begin + tensor.end > len(data) for tensor in found):
        raise EOFError
    return found


def _tensor(cursor: _Cursor) -> Tensor:
    cursor.text()
    (rank,) = cursor.take("I")
    if rank > _MOST_DIMENSIONS:
        raise KeyError(rank)
    numbers = math.prod(cursor.take(f"{rank}Q"))
    kind, offset = cursor.take("IQ")
    block, size = GGML_QUANT_SIZES[kind]
    return Tensor(numbers, offset + numbers // block * size)
