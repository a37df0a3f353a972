"""The items of a response as they come, with the events that tell of them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from modelyard_runtime.api.conversation import Step
from modelyard_runtime.api.logprobs import Spelling, chat_entries
from modelyard_runtime.models.answer import Content, Part, Reasoning, ToolCallArguments, ToolCallStart

Event = dict[str, Any]
Kind = Literal["output_text", "reasoning_text"]
Status = Literal["in_progress", "completed", "incomplete"]


@dataclass(slots=True)
class TextItem:
    """A message, or the reasoning before one: ``kind`` is the type of its one content part."""

    kind: Kind
    index: int
    logprobs: list[dict[str, Any]] | None = None
    texts: list[str] = field(default_factory=list)
    id: str = ""

    def __post_init__(self) -> None:
        self.id = f"{'msg' if self.kind == 'output_text' else 'rs'}_{uuid.uuid4().hex}"

    def to_dict(self, status: Status) -> dict[str, Any]:
        """Returns the item."""
        content = [] if status == "in_progress" else [self._part()]
        if self.kind == "output_text":
            return {"id": self.id, "type": "message", "role": "assistant", "status": status, "content": content}
        return {"id": self.id, "type": "reasoning", "summary": [], "status": status, "content": content}

    def opened(self) -> Iterator[Event]:
        """Yields the events of its beginning."""
        empty = TextItem(self.kind, self.index, None if self.logprobs is None else [])._part()
        yield {"type": "response.output_item.added", "output_index": self.index, "item": self.to_dict("in_progress")}
        yield self._event("response.content_part.added", part=empty)

    def add(self, text: str, logprobs: list[dict[str, Any]]) -> Iterator[Event]:
        """Yields the event of more text."""
        self.texts.append(text)
        if self.logprobs is not None:
            self.logprobs += logprobs
        yield self._event(f"response.{self.kind}.delta", delta=text, **self._more(logprobs))

    def closed(self, status: Status) -> Iterator[Event]:
        """Yields the events of its end."""
        yield self._event(f"response.{self.kind}.done", text="".join(self.texts), **self._more(self.logprobs or []))
        yield self._event("response.content_part.done", part=self._part())
        yield {"type": "response.output_item.done", "output_index": self.index, "item": self.to_dict(status)}

    def _more(self, logprobs: list[dict[str, Any]]) -> dict[str, Any]:
        return {"logprobs": logprobs} if self.kind == "output_text" else {}

    def _event(self, name: str, **more: Any) -> Event:
        return {"type": name, "item_id": self.id, "output_index": self.index, "content_index": 0, **more}

    def _part(self) -> dict[str, Any]:
        part = {"type": self.kind, "text": "".join(self.texts)}
        return part | {"annotations": [], "logprobs": self.logprobs or []} if self.kind == "output_text" else part


@dataclass(slots=True)
class CallItem:
    """A call of a function."""

    start: ToolCallStart
    index: int
    texts: list[str] = field(default_factory=list)
    id: str = field(default_factory=lambda: f"fc_{uuid.uuid4().hex}")

    def to_dict(self, status: Status) -> dict[str, Any]:
        """Returns the item."""
        return {
            "id": self.id,
            "type": "function_call",
            "status": status,
            "call_id": self.start.id,
            "name": self.start.name,
            "arguments": "".join(self.texts),
        }

    def opened(self) -> Iterator[Event]:
        """Yields the event of its beginning."""
        yield {"type": "response.output_item.added", "output_index": self.index, "item": self.to_dict("in_progress")}

    def add(self, text: str) -> Iterator[Event]:
        """Yields the event of more arguments."""
        self.texts.append(text)
        yield {"type": "response.function_call_arguments.delta", "item_id": self.id, "output_index": self.index, "delta": text}

    def closed(self, status: Status) -> Iterator[Event]:
        """Yields the events of its end."""
        done = {"item_id": self.id, "output_index": self.index, "name": self.start.name, "arguments": "".join(self.texts)}
        yield {"type": "response.function_call_arguments.done", **done}
        yield {"type": "response.output_item.done", "output_index": self.index, "item": self.to_dict(status)}


@dataclass(slots=True)
class Output:
    """The items so far, one after the other: a part of another kind ends an item and begins the next."""

    logprobs: bool
    done: list[dict[str, Any]] = field(default_factory=list)
    _open: TextItem | CallItem | None = None
    _entries: list[dict[str, Any]] = field(default_factory=list)

    def add(self, step: Step, spelling: Spelling) -> Iterator[Event]:
        """Yields the events of a step."""
        if self.logprobs:
            self._entries += chat_entries(step.delta.tokens, spelling)
        for part in step.parts:
            yield from self._add(part)

    def end(self, status: Status) -> Iterator[Event]:
        """Yields the events of the end; an answer of nothing is an empty message."""
        if self._open is None and not self.done:
            yield from self._begin(self._new("output_text"))
        yield from self._close(status)

    def _add(self, part: Part) -> Iterator[Event]:
        match part:
            case Content(text):
                yield from self._text("output_text", text)
            case Reasoning(text):
                yield from self._text("reasoning_text", text)
            case ToolCallStart():
                yield from self._begin(CallItem(part, self._next))
            case ToolCallArguments(_, text):
                assert isinstance(self._open, CallItem)
                yield from self._open.add(text)

    def _text(self, kind: Kind, text: str) -> Iterator[Event]:
        if not (isinstance(self._open, TextItem) and self._open.kind == kind):
            yield from self._begin(self._new(kind))
        assert isinstance(self._open, TextItem)
        logprobs, self._entries = self._entries, []
        yield from self._open.add(text, logprobs)

    def _new(self, kind: Kind) -> TextItem:
        return TextItem(kind, self._next, [] if self.logprobs and kind == "output_text" else None)

    @property
    def _next(self) -> int:
        return len(self.done) + (self._open is not None)

    def _begin(self, item: TextItem | CallItem) -> Iterator[Event]:
        yield from self._close("completed")
        self._open = item
        yield from item.opened()

    def _close(self, status: Status) -> Iterator[Event]:
        if self._open is not None:
            item, self._open = self._open, None
            yield from item.closed(status)
            self.done.append(item.to_dict(status))
