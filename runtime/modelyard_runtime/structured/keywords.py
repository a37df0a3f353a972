"""The keywords of JSON Schema that answers keep, and what their values may be. Pure data.

https://json-schema.org/draft/2020-12, and ``definitions`` of its older drafts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

TYPES = frozenset({"string", "number", "integer", "boolean", "object", "array", "null"})
FORMATS = ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")

_YEAR = "(?:000[1-9]|00[1-9][0-9]|0[1-9][0-9]{2}|[1-9][0-9]{3})"
_LEAP_YEAR = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
_DAY = "(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))"
_DATE = f"(?:{_YEAR}-{_DAY}|{_LEAP_YEAR}-02-29)"
_TIME = "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:[.][0-9]{1,6})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
#: Formats for which the grammar's library is more generous than most readers are: 29 February of any year, second 60, the year 0.
#: https://www.rfc-editor.org/rfc/rfc3339
EXACT_FORMATS = {"date": f"^{_DATE}$", "time": f"^{_TIME}$", "date-time": f"^{_DATE}T{_TIME}$"}

#: Keywords that say something about a value and allow all of them. They are left out of grammars, as are those that begin with ``x-``.
ANNOTATIONS = frozenset(
    {"title", "description", "default", "examples", "example", "deprecated", "readOnly", "writeOnly", "discriminator"}
    | {"contentEncoding", "contentMediaType", "contentSchema", "$comment", "$schema", "$id"}
)
#: Keywords whose value is a schema, a list of them, or a map to them.
SCHEMA = frozenset(
    {"additionalProperties", "items", "not", "if", "then", "else", "contains", "propertyNames"}
    | {"unevaluatedProperties", "unevaluatedItems"}
)
SCHEMA_LIST = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})
SCHEMA_MAP = frozenset({"properties", "patternProperties", "dependentSchemas", "$defs", "definitions"})
#: What to write instead of keywords that no grammar keeps.
INSTEAD = {
    "$anchor": "name the schema in '$defs' and refer to it there",
    "$dynamicRef": "use '$ref'",
    "$recursiveRef": "use '$ref'",
    "additionalItems": "use 'prefixItems', and 'items' for what follows",
    "dependencies": "use 'dependentRequired' or 'dependentSchemas'",
    "nullable": "add \"null\" to 'type'",
}

MAX_PATTERN = 1_000
MAX_REPEATS = 10_000
MAX_LENGTH = 10_000_000


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(most: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most


def _is_type(value: Any) -> bool:
    names = value if isinstance(value, list) else [value]
    return bool(names) and all(isinstance(name, str) and name in TYPES for name in names)


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value) and len(set(value)) == len(value)


def _is_reference(value: Any) -> bool:
    return isinstance(value, str) and (value == "#" or value.startswith("#/"))


def _is_pattern(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= MAX_PATTERN


_NUMBER = (_is_number, "a number")
_SIZE = (_is_count(MAX_REPEATS), f"an integer from 0 to {MAX_REPEATS}")
_LENGTH = (_is_count(MAX_LENGTH), f"an integer from 0 to {MAX_LENGTH}")

#: Keywords with a plain value: whether a value is right, and words for what would be.
VALUES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "type": (_is_type, "one of, or a list of, string, number, integer, boolean, object, array and null"),
    "enum": (lambda value: isinstance(value, list) and bool(value), "a list of at least one value"),
    "const": (lambda value: True, "any value"),
    "required": (_is_names, "a list of different names"),
    "$ref": (_is_reference, 'a reference inside the schema, as "#/$defs/name"'),
    "pattern": (_is_pattern, f"a regular expression of at most {MAX_PATTERN} characters"),
    "format": (lambda value: value in FORMATS, f"one of {', '.join(FORMATS)}"),
    "minimum": _NUMBER,
    "maximum": _NUMBER,
    "exclusiveMinimum": _NUMBER,
    "exclusiveMaximum": _NUMBER,
    "multipleOf": (lambda value: _is_number(value) and value > 0, "a number above 0"),
    "minLength": _LENGTH,
    "maxLength": _LENGTH,
    "minItems": _SIZE,
    "maxItems": _SIZE,
    "uniqueItems": (lambda value: isinstance(value, bool), "true or false"),
    "minContains": _SIZE,
    "maxContains": _SIZE,
    "dependentRequired": (
        lambda value: isinstance(value, dict) and all(map(_is_names, value.values())),
        "an object of lists of different names",
    ),
    "minProperties": _SIZE,
    "maxProperties": _SIZE,
}  # fmt: skip
