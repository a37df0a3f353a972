"""What config.json of CTranslate2's format says beside ``model.bin``: its library believes it, and reads past its memory where it is wrong.

The layout of ``model.bin``: https://github.com/OpenNMT/CTranslate2/blob/master/python/ctranslate2/specs/model_spec.py
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from modelyard_runtime.errors import UnsupportedModel
from modelyard_runtime.model_files import read_object

_LAYER = re.compile(r"decoder/layer_(\d+)/")
_TOKENS = ("suppress_ids", "suppress_ids_begin", "lang_ids")
#: Bytes of the largest variable that is read: scalars have no more.
_SCALAR = 8


@dataclass(frozen=True, slots=True)
class Decoder:
    """How many layers, heads in each, and tokens a decoder has."""

    layers: int
    heads: int
    vocabulary: int


def check_config(folder: Path) -> None:
    """Raises UnsupportedModel when model.bin is damaged, and when config.json names heads or tokens that it does not have.

    Before the library reads them: what it makes of damaged files depends on what was in its memory before.
    """
    config = read_object(folder / "config.json")
    try:
        decoder = _decoder(folder / "model.bin")
    except (struct.error, UnicodeDecodeError, OSError) as error:
        raise UnsupportedModel(f"model.bin of {folder.name} cannot be read: {error}") from error
    heads = config.get("alignment_heads")
    if heads is not None and not (isinstance(heads, list) and heads and all(_is_head(one, decoder) for one in heads)):
        raise _wrong(folder, "alignment_heads", f"{decoder.layers} layers of {decoder.heads} heads")
    for name in _TOKENS:
        tokens = config.get(name)
        if tokens is not None and not (isinstance(tokens, list) and all(_is_below(token, decoder.vocabulary) for token in tokens)):
            raise _wrong(folder, name, f"{decoder.vocabulary} tokens")


def _wrong(folder: Path, name: str, there: str) -> UnsupportedModel:
    return UnsupportedModel(
        f"{name} in config.json of {folder.name} fits no model of {there}", "convert the model again, or fetch it again"
    )


def _is_head(value: Any, decoder: Decoder) -> bool:
    return isinstance(value, list) and len(value) == 2 and _is_below(value[0], decoder.layers) and _is_below(value[1], decoder.heads)


def _is_below(value: Any, bound: int) -> bool:
    return isinstance(value, int) and 0 <= value < bound


def _decoder(path: Path) -> Decoder:
    layers, heads, vocabulary = set[str](), 0, 0
    with path.open("rb") as file:
        for name, shape, value in _variables(file):
            if layer := _LAYER.match(name):
                layers.add(layer[1])
            elif name == "decoder/num_heads":
                heads = int.from_bytes(value, "little")
            elif name == "decoder/embeddings/weight" and shape:
                vocabulary = shape[0]
    return Decoder(len(layers), heads, vocabulary)


def _variables(file: BinaryIO) -> Iterator[tuple[str, tuple[int, ...], bytes]]:
    """Yields the variables: name, shape, and the value of those that are small."""
    _unpack(file, "<I")  # the format's version
    _name(file)
    _, count = _unpack(file, "<II")
    for _ in range(count):
        name = _name(file)
        (rank,) = _unpack(file, "<B")
        shape = _unpack(file, f"<{rank}I")
        _, size = _unpack(file, "<BI")
        small = size <= _SCALAR
        yield name, shape, file.read(size) if small else b""
        if not small:
            file.seek(size, 1)


def _name(file: BinaryIO) -> str:
    (length,) = _unpack(file, "<H")
    return file.read(length).rstrip(b"\0").decode()


def _unpack(file: BinaryIO, form: str) -> tuple[int, ...]:
    return struct.unpack(form, file.read(struct.calcsize(form)))
