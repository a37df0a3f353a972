"""Reads YAML manifests as kubectl does, within bounds: several documents, no duplicate keys, no Python objects, no alias bombs.

Scalars resolve as in kubectl's parser, where PyYAML differs: a date and ``1:30`` are text, ``1e3`` is a number.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

import yaml

MAX_BYTES = 2**20
MAX_NODES = 20_000


class Unreadable(Exception):
    """The text is not YAML within the bounds; the message says where and why."""


class _Loader(yaml.SafeLoader):
    """SafeLoader with kubectl's scalars, refusing duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            where = f"line {key.start_mark.line + 1}"
            if not isinstance(key, yaml.ScalarNode):
                raise Unreadable(f"{where}: a key must be text")
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise Unreadable(f"{where}: key {key.value!r} already set in map")
            seen.add(key.value)
        whole = super().construct_mapping(node, deep)
        return {key if isinstance(key, str) else json.dumps(key): value for key, value in whole.items()}


_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in resolvers if tag.rpartition(":")[2] in ("null", "bool", "merge")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"[-+]?(0b[01_]+|0o?[0-7_]*|0x[0-9a-fA-F_]+|[1-9][0-9_]*)$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?([0-9][0-9_]*[.]?[0-9]*|[.][0-9]+)([eE][-+]?[0-9]+)?$"), list("-+0123456789.")
)


def _told(problem: yaml.YAMLError) -> str:
    """Returns what is wrong and where, in one line and without the picture that PyYAML draws of it."""
    if not isinstance(problem, yaml.MarkedYAMLError) or problem.problem_mark is None:
        return " ".join(str(problem).split())
    where = f"line {problem.problem_mark.line + 1}, column {problem.problem_mark.column + 1}"
    return ", ".join(part for part in (f"{where}: {problem.problem}", problem.context) if part)


def read(text: str) -> list[Any]:
    """Returns the documents of a text, empty ones left out; raises Unreadable."""
    if len(text.encode()) > MAX_BYTES:
        raise Unreadable(f"longer than {MAX_BYTES} bytes")
    try:
        documents = list(_documents(_Loader(text)))
    except yaml.YAMLError as problem:
        raise Unreadable(_told(problem)) from problem
    except (RecursionError, ValueError) as problem:
        raise Unreadable("nested too deep" if isinstance(problem, RecursionError) else str(problem)) from problem
    return [document for document in documents if document is not None]


def _documents(loader: _Loader) -> Iterator[Any]:
    while loader.check_node():
        node = loader.get_node()
        if _size(node, {}) > MAX_NODES:
            raise Unreadable(f"more than {MAX_NODES} values, aliases written out")
        yield loader.construct_document(node)


def _size(node: yaml.Node | None, known: dict[int, int]) -> int:
    """Returns how many values a node stands for, each alias counted as what it repeats."""
    if node is None or id(node) in known:
        return known.get(id(node), 0)
    known[id(node)] = MAX_NODES + 1  # met again from inside itself: endless
    children = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
    known[id(node)] = 1 + (0 if isinstance(node, yaml.ScalarNode) else sum(_size(child, known) for child in children))
    return known[id(node)]
