"""One call in JSON, ``{"name": …, "arguments": {…}}``, read as it comes: its name as soon as it is known, then its arguments."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from modelyard_runtime.models.tools.output import Output, State, StateParser

_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_STRING = r'"((?:[^"\\]|\\.)*)"'
#: The usual beginning. Anything else that is a call is told when it is whole.
_HEAD = re.compile(
    rf'\{{\s*(?:"(?:type|id)"\s*:\s*{_STRING}\s*,\s*)?"name"\s*:\s*{_STRING}\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{{)', re.DOTALL
)
_MOST_HEAD = 512
_PLAIN = re.compile(r"[\s0-9A-Za-z+\-.,:]*")
_IN_STRING = re.compile(r'[^"\\]*')


class Span:
    """Finds the end of a JSON object, in any number of pieces. ``done`` after its last brace, ``broken`` where no JSON goes on."""

    def __init__(self, depth: int = 0):
        self.done = False
        self.broken = False
        self._depth = depth
        self._string = False
        self._escaped = False

    def push(self, text: str, at: int, limit: int) -> int:
        """Returns where the object ends, where it breaks, or the limit."""
        while at < limit and not self.done and not self.broken:
            at = self._in_string(text, at, limit) if self._string else self._outside(text, at, limit)
        return at

    def _in_string(self, text: str, at: int, limit: int) -> int:
        if self._escaped:
            self._escaped = False
            return at + 1
        at = _match_end(_IN_STRING, text, at, limit)
        if at < limit:
            self._string = self._escaped = text[at] == "\\"  # a backslash, or else the quote that ends it
            at += 1
        return at

    def _outside(self, text: str, at: int, limit: int) -> int:
        at = _match_end(_PLAIN, text, at, limit) if self._depth else at
        if at == limit:
            return at
        sign = text[at]
        if sign not in '"{}[]' or (not self._depth and sign != "{"):
            self.broken = True
            return at
        self._string = sign == '"'
        self._depth += (sign in "{[") - (sign in "}]")
        self.done = self._depth == 0
        return at + 1


def pass_on(parser: StateParser, arguments: Span) -> bool:
    """Gives out what there is of a call's arguments, from where the parser is; returns whether they have ended, and the call with them."""
    end = arguments.push(parser.text, parser.at, len(parser.text))
    parser.output.arguments(parser.text[parser.at : end])
    parser.at = end
    if not arguments.done and not arguments.broken:
        return False
    parser.output.end_call()
    return True


class CallReader:
    """Reads one call into an output; ``accepts`` says which names are calls.

    ``done`` when the object has ended. ``rejected`` is then its text when it is no call, None when it is.
    """

    def __init__(self, output: Output, accepts: Callable[[str], bool]):
        self.done = False
        self.rejected: str | None = None
        self._output = output
        self._accepts = accepts
        self._pieces: list[str] = []
        self._head = ""
        self._span = Span()
        self._read = self._whole
        self._judged = False

    def push(self, text: str, at: int) -> int:
        """Returns where reading ended: the text's end, unless it is done."""
        while at < len(text) and not self.done:
            at = self._read(text, at)
        return at

    def finish(self) -> None:
        """The text has ended: what is not begun is no call."""
        if not self.done:
            self._reject_or_end()

    def _whole(self, text: str, at: int) -> int:
        """Collects the object until its beginning says that it is a call, or until it is whole."""
        limit = len(text) if self._judged else min(len(text), at + _MOST_HEAD - len(self._head))
        if not self._judged:
            begun = self._begin(text, at, limit)
            if begun is not None:
                return begun
        end = self._span.push(text, at, limit)
        self._pieces.append(text[at:end])
        if not self._judged:
            self._head += self._pieces[-1]
            self._judged = len(self._head) >= _MOST_HEAD
        if self._span.done or self._span.broken:
            self._judge()
        return end

    def _begin(self, text: str, at: int, limit: int) -> int | None:
        """Starts the call when its head is there; returns where its arguments begin."""
        match = _HEAD.match(self._head + text[at:limit])
        if match is None:
            return None
        name = _loaded('"' + match[2] + '"')
        if not self._is_name(name):
            self._judged = True
            return None
        self._output.start(name)
        self._span, self._read = Span(), self._arguments
        return at + match.end() - len(self._head)

    def _arguments(self, text: str, at: int) -> int:
        end = self._span.push(text, at, len(text))
        self._output.arguments(text[at:end])
        if self._span.broken:
            self._end_call()
        elif self._span.done:
            self._span, self._read = Span(depth=1), self._rest
        return end

    def _rest(self, text: str, at: int) -> int:
        """Goes past what follows the arguments in the object."""
        end = self._span.push(text, at, len(text))
        if self._span.done or self._span.broken:
            self._end_call()
        return end

    def _end_call(self) -> None:
        self.done = True
        self._output.end_call()

    def _judge(self) -> None:
        """The object is whole, or no JSON: a call after all, or not."""
        value = _loaded("".join(self._pieces)) if self._span.done else None
        name, arguments = _call_of(value)
        if self._is_name(name) and arguments is not None:
            self._output.start(name)
            self._output.arguments(arguments)
            self._end_call()
        else:
            self._reject_or_end()

    def _reject_or_end(self) -> None:
        self.done = True
        if self._read == self._whole:
            self.rejected = "".join(self._pieces)

    def _is_name(self, name: Any) -> bool:
        return isinstance(name, str) and _NAME.fullmatch(name) is not None and self._accepts(name)


class CallParser(StateParser, ABC):
    """A parser of texts with calls in JSON among them. What leads to a call is held back as ``lead``: text, if what follows is none."""

    def __init__(self, output: Output, accepts: Callable[[str], bool] = lambda name: True):
        super().__init__(output)
        self.lead = ""
        self._accepts = accepts
        self._reader = CallReader(output, accepts)
        self.state = self._content

    @abstractmethod
    def _content(self) -> bool:
        """The state of text that is no call."""

    @abstractmethod
    def _after(self, lead: str) -> State:
        """Returns the state after a call that ``lead`` led to."""

    def go_past(self, marker: str, then: State) -> bool:
        """Gives out the text before a marker, which leads to what ``then`` reads, and changes the state to that where the marker is."""
        before, found = self.upto(marker)
        self.output.content(before)
        self.lead = found or ""
        return found is not None and self.go(then)

    def go_to_call(self) -> bool:
        """Changes the state to that of a call, which begins here."""
        self._reader = CallReader(self.output, self._accepts)
        return self.go(self._call)

    def _call(self) -> bool:
        self.at = self._reader.push(self.text, self.at)
        if self.ended:
            self._reader.finish()
        if not self._reader.done:
            return False
        if self._reader.rejected is not None:
            return self.go_to_text(self._reader.rejected)
        lead, self.lead = self.lead, ""
        return self.go(self._after(lead))

    def go_to_text(self, text: str = "") -> bool:
        """Gives out what seemed to lead to a call, and more, and changes the state to that of text."""
        self.output.content(self.lead + text)
        self.lead = ""
        return self.go(self._content)


def _call_of(value: Any) -> tuple[Any, str | None]:
    """Returns the name, and the arguments as JSON; some models write them as a string, or leave them out."""
    if not isinstance(value, dict):
        return None, None
    inner = value.get("function")
    call = inner if isinstance(inner, dict) else value
    arguments = call.get("arguments", call.get("parameters", {}))
    if isinstance(arguments, str):
        arguments = _loaded(arguments) if arguments.strip() else {}
    return call.get("name", inner), json.dumps(arguments, ensure_ascii=False) if isinstance(arguments, dict) else None


def _loaded(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _match_end(pattern: re.Pattern[str], text: str, at: int, limit: int) -> int:
    match = pattern.match(text, at, limit)
    assert match is not None, "it matches nothing too"
    return match.end()
