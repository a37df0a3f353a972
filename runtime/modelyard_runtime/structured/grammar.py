"""Grammars as text, in the language of llguidance: https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md.

Whitespace in JSON is one space, or one line break with up to 16 spaces: a model may write it pretty, and a weak one cannot lose itself
in it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from llguidance import regex_to_lark

#: Names of further properties may be written with \\u escapes where those are allowed, and the library then takes the name of a listed
#: property for another: what follows it would be bound by nothing.
_JSON_OPTIONS = {"whitespace_pattern": r"( |\n {0,16})", "json_allowed_escapes": 'nrbtf\\"'}
#: It goes last: the library takes it out and puts the last key in its place, and the order of properties hangs on that of the keys.
_MARKED = {"x-guidance": _JSON_OPTIONS}

ANY_OBJECT: dict[str, Any] = {"type": "object"}


def json_rule(schema: dict[str, Any]) -> str:
    """Returns an expression for the JSON texts of a normalised schema, to be used in a rule."""
    return f"%json {json.dumps(schema | _MARKED)}"


def literal(text: str) -> str:
    """Returns an expression for exactly this text."""
    return json.dumps(text) if text else '""'


def pattern(regex: str) -> str:
    """Returns an expression for the texts that match all of a regular expression, which has Rust's syntax."""
    return f"/{regex_to_lark(regex)}/"


def choice(texts: Iterable[str]) -> str:
    """Returns an expression for one of several texts."""
    return " | ".join(literal(text) for text in texts)


def grammar(start: str, rules: Sequence[str] = ()) -> str:
    """Returns a whole grammar from the expression that it begins with, and further rules ``name: expression``."""
    return "\n".join(["%llguidance {}", f"start: {start}", *rules])
