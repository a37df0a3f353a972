"""What a chat request's fields are called in a response's request, so that errors name what the client wrote."""

from __future__ import annotations

import re
from collections.abc import Sequence

from modelyard.api.errors import ApiError, InvalidRequest

_FIELDS = (
    (re.compile(r"^messages(?!\[)"), "input"),
    (re.compile(r"^max_completion_tokens"), "max_output_tokens"),
    (re.compile(r"^response_format(\.json_schema)?"), "text.format"),
    (re.compile(r"^(tools\[\d+\]|tool_choice)\.function"), r"\1"),
    (re.compile(r"^reasoning_effort"), "reasoning.effort"),
)
_MESSAGE = re.compile(r"^messages\[(\d+)\]")
#: Words of messages that speak of such fields.
_WORDS = ((re.compile(r"\b(in|Shorten) messages\b"), r"\1 input"), (re.compile(r"\bmax_completion_tokens\b"), "max_output_tokens"))


def renamed(param: str, origins: Sequence[int | None]) -> str:
    """Returns the name here of a chat request's field. ``origins`` has, for each message, its item's place; None is the instructions'."""
    message = _MESSAGE.match(param)
    if message is not None:
        origin = origins[int(message[1])]
        return "instructions" if origin is None else f"input[{origin}]{param[message.end() :]}"
    for pattern, name in _FIELDS:
        param = pattern.sub(name, param, count=1)
    return param


def reworded(error: ApiError, origins: Sequence[int | None]) -> InvalidRequest:
    """Returns an error of the chat request in the words of this one."""
    message, param = error.message, error.param
    if param is not None:
        message = message.replace(f"'{param}", f"'{renamed(param, origins)}")
        param = renamed(param, origins)
    for pattern, words in _WORDS:
        message = pattern.sub(words, message)
    return InvalidRequest(message, param=param, code=error.code)
