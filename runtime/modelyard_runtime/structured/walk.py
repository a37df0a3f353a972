"""What a walk over one JSON schema carries with it: its root, its bounds, and the error that ends it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Schema = dict[str, Any] | bool

#: Schemas in the form that grammars are made from: conditions are written out as alternatives there.
MAX_WRITTEN = 20_000
#: Pairs of schemas that are told apart, and schemas that are looked into for values.
MAX_COMPARED = 50_000
_MAX_REFERENCE_CHAIN = 32
_DEFINITION = "#/$defs/"


class SchemaRefused(ValueError):
    """A schema that no grammar is made of. ``path`` is where: ``.properties.age.minimum``, empty for all of it."""

    def __init__(self, path: str, message: str):
        super().__init__(message)
        self.path = path


class Inexpressible(Exception):
    """A keyword that no grammar can keep where it stands; the message says why, and what to write instead."""


@dataclass(slots=True)
class Walk:
    """What one schema has used of its bounds. A lenient walk leaves out what it cannot enforce.

    ``checked`` are the identities of the schemas in ``root`` that were checked: what else it holds may be anything. ``shared`` are schemas
    that were made on the way, which stand beside the client's definitions, by name.
    """

    root: dict[str, Any]
    lenient: bool
    schemas: int = 0
    enum: int = 0
    references: int = 0
    written: int = 0
    compared: int = 0
    checked: set[int] = field(default_factory=set)
    shared: dict[str, Schema] = field(default_factory=dict)

    def charge(self) -> None:
        """Counts a schema that is written out. Raises SchemaRefused."""
        self.written += 1
        if self.written > MAX_WRITTEN:
            raise SchemaRefused("", f"the schema has more than {MAX_WRITTEN} schemas when its conditions are written out; simplify it")

    def compare(self) -> None:
        """Counts a look at a schema beside others. Raises SchemaRefused."""
        self.compared += 1
        if self.compared > MAX_COMPARED:
            raise SchemaRefused("", "the schema has too many alternatives to tell apart; give each a constant tag, or send fewer")

    def follow(self, schema: Any, *, alone: bool = False) -> Any:
        """Returns what a schema that is a reference points to, or the schema; with ``alone`` only where nothing stands beside it."""
        for _ in range(_MAX_REFERENCE_CHAIN):
            if not isinstance(schema, dict) or "$ref" not in schema or (alone and len(schema) > 1):
                break
            schema = self.resolve(schema["$ref"])
        return schema

    def resolve(self, reference: str) -> Any:
        """Returns the checked schema that a reference points to. Raises SchemaRefused where it points to anything else."""
        name = reference.removeprefix(_DEFINITION)
        if name in self.shared:
            return self.shared[name]
        found = resolved(self.root, reference)
        if not isinstance(found, bool) and id(found) not in self.checked:
            raise SchemaRefused("", f"'{reference[:100]}' points to no schema; refer to one in '$defs'")
        return found

    def share(self, schema: Schema) -> Schema:
        """Returns a reference to a schema that stands in many places; the grammar then has it once."""
        if isinstance(schema, bool):
            return schema
        name = f"x-shared-{len(self.shared)}"
        while name in self.root.get("$defs", ()):
            name += "-"
        self.shared[name] = schema
        return {"$ref": _DEFINITION + name}


def resolved(root: dict[str, Any], reference: str) -> Any:
    """Returns what ``#/a/b`` points to, or None. https://www.rfc-editor.org/rfc/rfc6901."""
    node: Any = root
    for part in reference.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(node, dict):
            node = node.get(key)
        elif isinstance(node, list) and key.isdecimal() and int(key) < len(node):
            node = node[int(key)]
        else:
            return None
    return node
