"""Tools for models whose template knows none: told in words, called in JSON, and answered by the user."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

_ASK = (
    "You can call these functions:\n{tools}\n\n"
    'To call one, answer with nothing but JSON: {{"name": "<function>", "arguments": {{<its arguments>}}}}, one object per call. '
    "Otherwise answer in words."
)


def plain_messages(messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns messages of system, user and assistant alone, with text alone in them."""
    result = [_plain(message) for message in messages]
    if not tools:
        return result
    words = _ASK.format(tools="\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools))
    if result and result[0]["role"] == "system":
        return [{**result[0], "content": f"{result[0]['content']}\n\n{words}"}, *result[1:]]
    return [{"role": "system", "content": words}, *result]


def _plain(message: Mapping[str, Any]) -> dict[str, Any]:
    if message["role"] == "tool":
        return {"role": "user", "content": f"Result of the call {message['tool_call_id']}:\n{message['content']}"}
    calls = message.get("tool_calls")
    if not calls:
        return dict(message)
    said = [message["content"]] if message["content"] else []
    return {"role": "assistant", "content": "\n".join(said + [_spoken(call["function"]) for call in calls])}


def _spoken(function: Mapping[str, Any]) -> str:
    return json.dumps({"name": function["name"], "arguments": function["arguments"]}, ensure_ascii=False)
