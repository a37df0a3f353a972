"""How much longer the rules in a tokenizer.json make texts: thirty that double a letter fill any memory, from one word.

The format: https://huggingface.co/docs/tokenizers/components. Rules are known by their fields, for the library reads those without a type.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson

from modelyard_runtime.errors import UnsupportedModel

_MOST_TIMES = 64
_MOST_TOKENS = 4096
_LONGEST_TOKEN = 4096
#: Characters that Unicode itself makes of one (U+FDFA): what every normalisation may do, once.
_UNICODE = 18
_REMEDY = "use the tokenizer.json that the model was published with"


def check_growth(folder: Path) -> None:
    """Raises UnsupportedModel where the folder's tokenizer makes texts too long; what cannot be read is left to who reads it."""
    try:
        file = orjson.loads((folder / "tokenizer.json").read_bytes())
    except (OSError, ValueError):
        return
    if not isinstance(file, dict):
        return
    for part in ("normalizer", "decoder"):
        times = math.prod(map(_times, _steps(file.get(part), f"{part}s")))
        if times > _MOST_TIMES:
            raise _refused(folder, f"its {part} makes texts more than {_MOST_TIMES} times longer")
    if sum(map(_added, _steps(file.get("post_processor"), "processors"))) > _MOST_TOKENS:
        raise _refused(folder, f"it adds more than {_MOST_TOKENS} tokens to each text")
    if max(map(len, _tokens(file.get("model"))), default=0) > _LONGEST_TOKEN:
        raise _refused(folder, f"a token of its vocabulary is longer than {_LONGEST_TOKEN} characters")


def _steps(rule: Any, inner: str) -> Iterator[dict[str, Any]]:
    """Yields a rule, or those of a sequence of them."""
    if isinstance(rule, dict):
        yield rule
        for step in _list(rule.get(inner)):
            yield from _steps(step, inner)


def _times(rule: dict[str, Any]) -> float:
    """Returns how many characters a rule makes of one, at most."""
    times = 1.0
    if isinstance(rule.get("content"), str):
        times *= _replacing(rule.get("pattern"), len(rule["content"]))
    if isinstance(rule.get("prepend"), str):
        times *= 1 + len(rule["prepend"])
    if isinstance(rule.get("precompiled_charsmap"), str):
        times *= max(1, _longest(rule["precompiled_charsmap"]) / _UNICODE)
    return times


def _replacing(pattern: Any, content: int) -> float:
    """A regular expression may match between two characters, and so may an empty text."""
    text = pattern.get("String") if isinstance(pattern, dict) else pattern
    return max(1, content / len(text)) if isinstance(text, str) and text else 1 + content


def _longest(charsmap: str) -> int:
    """Returns the longest text that a map of sentencepiece's puts in place of a character: a trie's size, the trie, the texts."""
    try:
        data = base64.b64decode(charsmap)
    except (binascii.Error, ValueError):
        return 0
    texts = data[4 + int.from_bytes(data[:4], "little") :]
    return max(len(text.decode(errors="replace")) for text in texts.split(b"\0"))


def _added(rule: dict[str, Any]) -> int:
    """Returns how many tokens a template puts around a text or a pair."""
    specials = rule.get("special_tokens")
    if not isinstance(specials, dict):
        return 0
    sizes = {name: len(_list(token.get("ids"))) for name, token in specials.items() if isinstance(token, dict)}
    return max(sum(sizes.get(_special(piece), 0) for piece in _list(rule.get(template))) for template in ("single", "pair"))


def _special(piece: Any) -> str:
    special = piece.get("SpecialToken") if isinstance(piece, dict) else None
    return str(special.get("id")) if isinstance(special, dict) else ""


def _tokens(model: Any) -> Iterator[str]:
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    yield from vocabulary if isinstance(vocabulary, dict) else (str(one[0]) for one in _list(vocabulary) if isinstance(one, list) and one)


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


def _refused(folder: Path, why: str) -> UnsupportedModel:
    return UnsupportedModel(f"the tokenizer of {folder.name} cannot be used: {why}", _REMEDY)
