"""Items of a response's input, as messages of a chat."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, WithJsonSchema

from modelyard_runtime.api.fields import Body, Ignored, invalid

#: Kinds of content parts that are text, wherever they come from.
_TEXTS = {**dict.fromkeys(("input_text", "output_text", "text", "summary_text", "reasoning_text"), "text"), "refusal": "refusal"}
_SUPPORTED = "message, function_call, function_call_output and reasoning"


def _parts(value: Any) -> Any:
    """Returns the text of parts; parts of images, files or audio are refused."""
    if not isinstance(value, list):
        return value
    return "".join(_part(part) for part in value)


def _part(part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    text = part.get(_TEXTS[kind]) if isinstance(part, dict) and kind in _TEXTS else None
    if not isinstance(text, str):
        raise invalid('this model takes text only: send parts of {"type": "input_text", "text": "…"}')
    return text


PartsText = Annotated[
    str,
    BeforeValidator(_parts),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}]}),
]


class MessageItem(Body):
    """A message, written by a client or copied from an answer."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: PartsText
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


class CallOutputItem(Body):
    """What a function gave back."""

    type: Literal["function_call_output"]
    call_id: Annotated[str, Field(min_length=1, max_length=256)]
    output: PartsText
    id: Ignored = None
    status: Ignored = None


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


def messages_of(items: list[Any]) -> list[dict[str, Any]]:
    """Returns the messages that a chat template takes.

    What the model said in one turn is one message: reasoning, text and calls that follow each other.
    """
    messages: list[dict[str, Any]] = []
    reasoning: str | None = None
    for item in items:
        match item:
            case ReasoningItem():
                reasoning = item.content or item.summary
                continue
            case MessageItem(role="assistant"):
                messages.append({"role": "assistant", "content": item.content})
            case MessageItem():
                messages.append({"role": item.role, "content": item.content})
            case CallItem():
                _add_call(messages, item, reasoning)
            case CallOutputItem():
                messages.append({"role": "tool", "tool_call_id": item.call_id, "content": item.output})
        if reasoning and messages[-1]["role"] == "assistant":
            messages[-1].setdefault("reasoning_content", reasoning)
        reasoning = None
    return messages


def _add_call(messages: list[dict[str, Any]], item: CallItem, reasoning: str | None) -> None:
    """Adds a call to the assistant's message of this turn, or begins one: reasoning in between means a turn of its own."""
    if not messages or messages[-1]["role"] != "assistant" or reasoning:
        messages.append({"role": "assistant", "content": None})
    call = {"id": item.call_id, "type": "function", "function": {"name": item.name, "arguments": item.arguments}}
    messages[-1].setdefault("tool_calls", []).append(call)
