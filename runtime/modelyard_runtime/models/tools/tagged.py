"""Calls whose arguments are in tags, one by one: Qwen3-Coder's and GLM 4.5's.

<tool_call><function=name><parameter=key>value</parameter></function></tool_call>
<tool_call>name<arg_key>key</arg_key><arg_value>value</arg_value></tool_call>
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modelyard_runtime.models.tools.output import Output, StateParser
from modelyard_runtime.models.tools.values import Parameter, parameter

OPEN, CLOSE = "<tool_call>", "</tool_call>"
_NAME = r"[A-Za-z0-9_.:-]"
_MOST_HEAD = 256
_MOST_KEY = 256


def _begun(literal: str, after: str = "") -> str:
    """Returns a regular expression of what begins a literal, or goes on after it."""
    for sign in reversed(literal):
        after = f"(?:{re.escape(sign)}{after})?"
    return after


@dataclass(frozen=True, slots=True)
class Tags:
    """What stands around names, keys and values. ``head`` is the name after the block's beginning, ``begun`` what may become one.

    ``lines`` says that a value has lines of its own. ``ends`` are what closes a call, in order.
    """

    starts: tuple[str, ...]
    head: re.Pattern[str]
    begun: re.Pattern[str]
    name: tuple[str, str]
    key: tuple[str, str]
    value: tuple[str, str]
    lines: bool
    ends: tuple[str, ...]


QWEN = Tags(
    starts=(OPEN, "<function="),
    head=re.compile(rf"\s*<function=({_NAME}{{1,128}})>"),
    begun=re.compile(r"\s*" + _begun("<function=", _NAME + "{0,128}")),
    name=("<function=", ">"),
    key=("<parameter=", ">"),
    value=("", "</parameter>"),
    lines=True,
    ends=("</function>", CLOSE),
)
GLM = Tags(
    starts=(OPEN,),
    head=re.compile(rf"\s*({_NAME}{{1,128}})(?=\s*(?:<arg_key>|{CLOSE}))"),
    begun=re.compile(rf"\s*{_NAME}{{0,128}}\s*(?:{_begun('<arg_key>')}|{_begun(CLOSE)})"),
    name=("", ""),
    key=("<arg_key>", "</arg_key>"),
    value=("<arg_value>", "</arg_value>"),
    lines=False,
    ends=(CLOSE,),
)


class TaggedParser(StateParser):
    """Blocks of calls in text; arguments become JSON as the tools' schemas say. What begins as a block and is no call is text."""

    def __init__(self, tags: Tags, tools: Mapping[str, Mapping[str, Any]], output: Output | None = None):
        super().__init__(output or Output())
        self._tags = tags
        self._tools = tools
        self._lead = ""
        self._schema: Mapping[str, Any] = {}
        self._value = _Value(self.output, Parameter(frozenset(), plain=False), lines=False)
        self._keys = 0
        self.state = self._content

    def _content(self) -> bool:
        before, marker = self.upto(*self._tags.starts)
        self.output.content(before)
        if marker is None:
            return False
        self._lead = marker
        if marker != OPEN:  # the block's beginning was forgotten; the name's is to be read
            self._lead, self.at = "", self.at - len(marker)
        return self.go(self._head)

    def _head(self) -> bool:
        rest = self.text[self.at : self.at + _MOST_HEAD]
        head = self._tags.head.match(rest)
        if head is not None:
            self.at += head.end()
            self._schema, self._keys = self._tools.get(head[1], {}), 0
            self.output.start(head[1])
            self.output.arguments("{")
            return self.go(self._between)
        if len(rest) < _MOST_HEAD and not self.ended and self._tags.begun.fullmatch(rest):
            return False
        if not self._lead:  # the name's tag itself: it is not to be met again
            self._lead, self.at = self.text[self.at], self.at + 1
        self.output.content(self._lead)
        return self.go(self._content)

    def _between(self) -> bool:
        """Before a key, or the end of the call. What is neither is passed over."""
        _, marker = self.upto(self._tags.key[0], *self._tags.ends)
        if marker == self._tags.key[0]:
            return self.go(self._key)
        if marker is None:
            return False
        self.output.arguments("}")
        self.output.end_call()
        return self.go(self._closing if marker != self._tags.ends[-1] else self._content)

    def _key(self) -> bool:
        end = self.text.find(self._tags.key[1], self.at, self.at + _MOST_KEY)
        if end < 0 and len(self.text) - self.at < _MOST_KEY:
            return False
        key = self.text[self.at : end if end >= 0 else self.at + _MOST_KEY]
        self.at += len(key) + (len(self._tags.key[1]) if end >= 0 else 0)
        self.output.arguments(f"{', ' if self._keys else ''}{json.dumps(key.strip(), ensure_ascii=False)}: ")
        self._keys += 1
        self._value = _Value(self.output, parameter(self._schema, key.strip()), lines=self._tags.lines)
        return self.go(self._before_value)

    def _before_value(self) -> bool:
        if self._tags.value[0]:
            _, marker = self.upto(self._tags.value[0])
            if marker is None:
                return False
        return self.go(self._in_value)

    def _in_value(self) -> bool:
        text, marker = self.upto(self._tags.value[1])
        self._value.push(text)
        if marker is None:
            return False
        self._value.end()
        return self.go(self._between)

    def _closing(self) -> bool:
        """The end of the block, which models forget at times."""
        if not self.skip_blank():
            return False
        met = self.meets(self._tags.ends[-1])
        return met is not None and self.go(self._content)


class _Value:
    """A value as it comes: a plain string goes out at once, anything else when it is whole."""

    def __init__(self, output: Output, kind: Parameter, *, lines: bool):
        self._output = output
        self._kind = kind
        self._lines = lines
        self._pieces: list[str] = []
        self._begun = False
        self._line = ""

    def push(self, text: str) -> None:
        """Adds text."""
        if not text:
            return
        if not self._begun:
            self._begun = True
            text = text.removeprefix("\n") if self._lines else text
            if self._kind.plain:
                self._output.arguments('"')
        text = self._line + text
        self._line = "\n" if self._lines and text.endswith("\n") else ""  # it is the tag's, if the value ends here
        text = text.removesuffix(self._line)
        if self._kind.plain:
            self._output.arguments(json.dumps(text, ensure_ascii=False)[1:-1])
        else:
            self._pieces.append(text)

    def end(self) -> None:
        """The value is whole."""
        if not self._kind.plain:
            self._output.arguments(self._kind.as_json("".join(self._pieces)))
        else:
            self._output.arguments('"' if self._begun else '""')
