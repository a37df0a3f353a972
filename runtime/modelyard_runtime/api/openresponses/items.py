"""Items of a response's input, as messages of a chat."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, WithJsonSchema
from pydantic_core import PydanticKnownError

from modelyard_runtime.api.fields import Body, Ignored, invalid, unsupported

#: Kinds of content parts that are text, wherever they come from.
_TEXTS = {**dict.fromkeys(("input_text", "output_text", "text", "summary_text", "reasoning_text"), "text"), "refusal": "refusal"}
_SUPPORTED = "message, function_call, function_call_output and reasoning"


def _parts(value: Any) -> Any:
    """Returns the text of parts."""
    return "".join(map(_text, value)) if isinstance(value, list) else value


def _content(value: Any) -> Any:
    """Returns a text, or parts as chat has them where there are images among them."""
    if not isinstance(value, str | list):
        raise PydanticKnownError("string_type")
    if not isinstance(value, list) or not any(isinstance(part, dict) and part.get("type") == "input_image" for part in value):
        return _parts(value)
    return tuple(_image(part) if part["type"] == "input_image" else {"type": "text", "text": _text(part)} for part in value)


def _text(part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    text = part.get(_TEXTS[kind]) if isinstance(kind, str) and kind in _TEXTS else None
    if not isinstance(text, str):
        forms = '{"type": "input_text", "text": "…"} or {"type": "input_image", "image_url": "…"}'
        raise invalid(f"expected parts as {forms}; no others are supported")
    return text


def _image(part: dict[str, Any]) -> dict[str, Any]:
    url, detail = part.get("image_url"), part.get("detail") or "auto"
    if not isinstance(url, str):
        raise invalid("this server keeps no files: send 'image_url' with the image's address or data")
    return {"type": "image_url", "image_url": {"url": url, "detail": detail}}


_ANY_PARTS = WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}]})
PartsText = Annotated[str, BeforeValidator(_parts), _ANY_PARTS]
Content = Annotated[str | tuple[dict[str, Any], ...], BeforeValidator(_content), _ANY_PARTS]


class MessageItem(Body):
    """A message, written by a client or copied from an answer."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Content
    id: Ignored = None
    status: Ignored = None
    phase: Ignored = None


class CallItem(Body):
    """A call of a function that the model made."""

    type: Literal["function_call"]
    call_id: Annotated[str, Field(min_length=1, max_length=256)]
    name: Annotated[str, Field(min_length=1, max_length=256)]
    arguments: str
    id: Ignored = None
    status: Ignored = None
    caller: Annotated[Any, unsupported()] = None
    namespace: Annotated[Any, unsupported()] = None
    async_: Annotated[Any, unsupported(False), Field(alias="async")] = None


class CallOutputItem(Body):
    """What a function gave back."""

    type: Literal["function_call_output"]
    call_id: Annotated[str, Field(min_length=1, max_length=256)]
    output: PartsText
    name: Ignored = None
    id: Ignored = None
    status: Ignored = None
    caller: Annotated[Any, unsupported()] = None
    namespace: Annotated[Any, unsupported()] = None


class ReasoningItem(Body):
    """The reasoning before an answer, copied from it."""

    type: Literal["reasoning"]
    id: Ignored = None
    summary: PartsText = ""
    content: PartsText | None = None
    encrypted_content: Ignored = None
    status: Ignored = None


def _kind(value: Any) -> str:
    kind = value.get("type", "message") if isinstance(value, dict) else "message"
    return f"<{kind}>" if isinstance(kind, str) and kind in _KINDS else "<other>"


def _refuse(value: Any) -> Any:
    kind = str(value.get("type"))[:40]
    if kind == "item_reference":
        raise invalid("this server stores nothing that could be referred to: send the item itself")
    raise invalid(f"items of type {kind!r} are not supported; {_SUPPORTED} are")


_KINDS = {"message", "function_call", "function_call_output", "reasoning"}
Item = Annotated[
    Annotated[MessageItem, Tag("<message>")]
    | Annotated[CallItem, Tag("<function_call>")]
    | Annotated[CallOutputItem, Tag("<function_call_output>")]
    | Annotated[ReasoningItem, Tag("<reasoning>")]
    | Annotated[Any, BeforeValidator(_refuse), Tag("<other>")],
    Discriminator(_kind),
]


def messages_of(items: list[Any]) -> list[tuple[int, dict[str, Any]]]:
    """Returns the messages that a chat has, each with the place of its first item.

    What the model said in one turn is one message: reasoning, text and calls that follow each other.
    """
    messages: list[tuple[int, dict[str, Any]]] = []
    reasoning: str | None = None
    for place, item in enumerate(items):
        if isinstance(item, ReasoningItem):
            reasoning = item.content or item.summary
            continue
        if isinstance(item, CallItem) and messages and messages[-1][1]["role"] == "assistant" and not reasoning:
            messages[-1][1].setdefault("tool_calls", []).append(_call(item))
        else:
            more = {"reasoning_content": reasoning} if reasoning and _is_assistant(item) else {}
            messages.append((place, _message(item) | more))
        reasoning = None
    return messages


def _message(item: Any) -> dict[str, Any]:
    match item:
        case CallItem():
            return {"role": "assistant", "content": None, "tool_calls": [_call(item)]}
        case CallOutputItem():
            return {"role": "tool", "tool_call_id": item.call_id, "content": item.output}
    return {"role": item.role, "content": item.content if isinstance(item.content, str) else list(item.content)}


def _call(item: CallItem) -> dict[str, Any]:
    return {"id": item.call_id, "type": "function", "function": {"name": item.name, "arguments": item.arguments}}


def _is_assistant(item: Any) -> bool:
    return isinstance(item, CallItem) or getattr(item, "role", None) == "assistant"
