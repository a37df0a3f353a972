"""Calls in Python, as Llama 3.2 and 4 write them when their template asks for it: ``[get_weather(city="Paris"), clock()]``."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from typing import Any

from modelyard_runtime.models.tools.output import Output, StateParser
from modelyard_runtime.models.tools.values import followed, parameter

START, END = "<|python_start|>", "<|python_end|>"
_NAME = r"[A-Za-z_][A-Za-z0-9_.-]{0,127}"
_HEAD = re.compile(rf"\s*({_NAME})\(")
_HEAD_BEGUN = re.compile(rf"\s*(?:{_NAME})?")
_LEAD = re.compile(rf"\s*(?:{re.escape(START)}\s*)?\[(?=\s*({_NAME})\()")
_KEY = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]{0,127})\s*=(?!=)")
_PLAIN = re.compile(r"[^\"'\\()\[\]{},]*")
_IN_STRING = re.compile(r"[^\"'\\]*")
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_WORDS = {"true": True, "false": False, "null": None}
_MOST_LEAD = 256
#: Characters of one argument that is read as Python; what is longer is text.
_MOST_ARGUMENT = 65_536


class PythonicParser(StateParser):
    """A list of calls at the beginning of a text. Calls are of the request's tools; any other list is text."""

    def __init__(self, tools: Mapping[str, Mapping[str, Any]], output: Output | None = None):
        super().__init__(output or Output())
        self._tools = tools
        self._schema: Mapping[str, Any] = {}
        self._scan = _Scan()
        self._pieces: list[str] = []
        self._count = 0
        self.state = self._begin

    def _begin(self) -> bool:
        rest = self.text[self.at : self.at + _MOST_LEAD]
        lead = _LEAD.match(rest)
        if lead is not None and lead[1] in self._tools:
            self.at += lead.end()
            return self.go(self._head)
        if lead is None and len(rest) < _MOST_LEAD and not self.ended and _may_lead(rest):
            return False
        return self.go(self._content)

    def _content(self) -> bool:
        before, marker = self.upto(START)
        self.output.content(before)
        if marker is None:
            return False
        self.at -= len(marker)
        rest = self.text[self.at : self.at + _MOST_LEAD]
        lead = _LEAD.match(rest)
        if lead is None and len(rest) < _MOST_LEAD and not self.ended and _may_lead(rest):
            return False
        self.at += len(START)
        if lead is None or lead[1] not in self._tools:
            self.output.content(START)
            return True
        self.at += lead.end() - len(START)
        return self.go(self._head)

    def _head(self) -> bool:
        """Where a call begins."""
        head = _HEAD.match(self.text, self.at)
        if head is None:
            if not self.ended and _HEAD_BEGUN.fullmatch(self.text, self.at):
                return False
            return self.go(self._rest)
        self.at = head.end()
        self.output.start(head[1])
        self.output.arguments("{")
        self._schema, self._count = self._tools.get(head[1], {}), 0
        self._scan, self._pieces = _Scan(), []
        return self.go(self._argument)

    def _argument(self) -> bool:
        end = self._scan.push(self.text, self.at)
        self._pieces.append(self.text[self.at : end])
        self.at = end
        if not self._scan.done:
            return False
        self.at += 1
        self._give("".join(self._pieces))
        over = self.text[self.at - 1] == ")"
        self._scan, self._pieces = _Scan(), []
        if over:
            self.output.arguments("}")
            self.output.end_call()
        return self.go(self._between if over else self._argument)

    def _give(self, written: str) -> None:
        """Gives out an argument as JSON. One without a name is the next of the schema's."""
        key = _KEY.match(written)
        if key is None and not written.strip():
            return
        properties = followed(self._schema, self._schema).get("properties")
        names = list(properties) if isinstance(properties, dict) else []
        name = key[1] if key is not None else names[self._count] if self._count < len(names) else f"argument_{self._count + 1}"
        text = (written[key.end() :] if key is not None else written).strip()
        comma = ", " if self._count else ""
        self.output.arguments(f"{comma}{json.dumps(name, ensure_ascii=False)}: {self._as_json(name, text)}")
        self._count += 1

    def _as_json(self, name: str, text: str) -> str:
        literal = _literal(text)
        if literal is None or (parameter(self._schema, name).kinds == {"string"} and not isinstance(literal[0], str)):
            return json.dumps(text, ensure_ascii=False)
        return literal[1]

    def _between(self) -> bool:
        """After a call: another one, or the end of the list."""
        if not self.skip_blank():
            return False
        if self.text[self.at] == ",":
            self.at += 1
            return self.go(self._head)
        return self.go(self._rest)

    def _rest(self) -> bool:
        """What ends the list; then text."""
        if not self.skip_blank():
            return False
        if self.text[self.at] == "]":
            self.at += 1
            return True
        met = self.meets(END)
        return met is not None and self.go(self._content)


class _Scan:
    """Finds the comma or bracket that ends an argument, in any number of pieces."""

    def __init__(self) -> None:
        self.done = False
        self._depth = 0
        self._quote = ""
        self._escaped = False

    def push(self, text: str, at: int) -> int:
        """Returns where the argument ends, or the text."""
        while at < len(text) and not self.done:
            if self._escaped:
                self._escaped = False
                at += 1
                continue
            plain = (_IN_STRING if self._quote else _PLAIN).match(text, at)
            at = plain.end() if plain is not None else at
            if at < len(text):
                self._sign(text[at])
                at += not self.done
        return at

    def _sign(self, sign: str) -> None:
        if sign == "\\":
            self._escaped = True
        elif self._quote:
            self._quote = "" if sign == self._quote else self._quote
        elif sign in "\"'":
            self._quote = sign
        elif self._depth == 0 and sign in ",)":
            self.done = True
        else:
            self._depth = max(0, self._depth + (sign in "([{") - (sign in ")]}"))


def _known_escape(escape: re.Match[str]) -> str:
    """Returns an escape that Python knows; any other stands for itself, as Python has it too, without a warning."""
    return escape[0] if escape[1] in "\n\\'\"abfnrtvxuUN01234567" else "\\" + escape[0]


def _may_lead(text: str) -> bool:
    """Whether a text may still become the beginning of a list of calls."""
    rest = text.lstrip()
    if START.startswith(rest):
        return True
    rest = rest.removeprefix(START).lstrip()
    return not rest or (rest[0] == "[" and _HEAD_BEGUN.fullmatch(rest, 1) is not None)


class _Words(ast.NodeTransformer):
    """JSON's words for truth and nothing, where Python has names."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Constant(_WORDS[node.id]) if node.id in _WORDS else node


def _literal(text: str) -> tuple[Any, str] | None:
    """Returns the value of a literal and its JSON, None where it is none or has no JSON."""
    if len(text) > _MOST_ARGUMENT:
        return None
    try:
        value = ast.literal_eval(_Words().visit(ast.parse(_ESCAPE.sub(_known_escape, text), mode="eval")))
        written = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None
    return value, written.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # half a sign is none
