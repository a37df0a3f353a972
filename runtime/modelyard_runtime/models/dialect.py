"""How a model writes calls and reasoning: told from its chat template, or named by the settings."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import orjson
from modelyard.api.errors import InvalidRequest

from modelyard_runtime import strict_json
from modelyard_runtime.models import reasoning
from modelyard_runtime.models.answer import AnswerParser, OneCall, PlainParser
from modelyard_runtime.models.reasoning import ThinkParser
from modelyard_runtime.models.tools import deepseek, harmony, hermes, mistral, pythonic
from modelyard_runtime.models.tools.bare import LLAMA_MARKER, BareParser
from modelyard_runtime.models.tools.deepseek import DeepSeekParser
from modelyard_runtime.models.tools.harmony import HarmonyParser
from modelyard_runtime.models.tools.hermes import HermesParser
from modelyard_runtime.models.tools.mistral import MistralParser
from modelyard_runtime.models.tools.plain import plain_messages
from modelyard_runtime.models.tools.pythonic import PythonicParser
from modelyard_runtime.models.tools.tagged import GLM, QWEN, TaggedParser
from modelyard_runtime.models.tools.values import Schemas

ToolStyle = Literal["hermes", "qwen3_coder", "glm", "deepseek", "llama3", "pythonic", "mistral", "harmony", "json"]
ReasoningStyle = Literal["think", "harmony", "none"]

_MARKERS: dict[str, tuple[str, ...]] = {
    "hermes": (hermes.OPEN, hermes.CLOSE),
    "qwen3_coder": (*QWEN.starts, *QWEN.key, *QWEN.value, *QWEN.ends),
    "glm": (*GLM.starts, *GLM.key, *GLM.value, *GLM.ends),
    "deepseek": deepseek.MARKERS,
    "llama3": (LLAMA_MARKER,),
    "pythonic": (pythonic.START, pythonic.END),
    "mistral": (mistral.OPEN, "[ARGS]", "[CALL_ID]"),
    "harmony": harmony.MARKERS,
    "think": (reasoning.OPEN, reasoning.CLOSE),
}
#: Words of OpenAI's for which templates have others.
_EFFORTS = {"minimal": "low", "xhigh": "high", "max": "high"}
#: A template that joins the arguments to text wants them as text; all others get an object, as Transformers documents.
_TEXT_ARGUMENTS = re.compile(r"\+\s*tool\w*(?:\.function|\[['\"]function['\"]\])?(?:\.arguments|\[['\"]arguments['\"]\])(?!\s*\|)")


@dataclass(frozen=True, slots=True)
class Dialect:
    """A model's way to write. ``takes_tools`` says whether its template shows the model its tools.

    ``markers`` are the styles' markers that are tokens of their own, ``special`` those that text leaves out unless told otherwise.
    ``variables`` are what the template knows of thinking.
    """

    tools: ToolStyle
    reasoning: ReasoningStyle
    takes_tools: bool
    text_arguments: bool
    named_calls: bool
    thought_key: str
    markers: Mapping[str, int]
    special: frozenset[int]
    variables: frozenset[str]

    def shown(self) -> dict[str, Any]:
        """Returns what ``/v1/models`` says of it."""
        return {"tool_parser": self.tools, "takes_tools": self.takes_tools, "reasoning_parser": self.reasoning}

    def visible(self, *, tools: bool) -> frozenset[int]:
        """Returns the tokens whose names a parser has to see, with tools in the request or without."""
        styles = (self.tools, self.reasoning) if tools else (self.reasoning,)
        return self.special & {self.markers[name] for style in styles for name in _MARKERS.get(style, ()) if name in self.markers}

    def parser(self, tools: Schemas, *, thinks: bool, parallel: bool = True) -> AnswerParser:
        """Returns a fresh parser for an answer to a request that has these tools: the schemas of their arguments, by name.

        ``thinks`` says that the prompt opened the reasoning; calls after the first are left out when they may not be ``parallel``.
        """
        style: ToolStyle = "harmony" if self.reasoning == "harmony" else self.tools
        answer = _PARSERS[style](tools) if tools or style == "harmony" else PlainParser()
        if self.reasoning == "think":
            answer = ThinkParser(answer, opened=thinks)
        return answer if parallel else OneCall(answer)

    def effort(self, effort: str | None) -> dict[str, Any]:
        """Returns the template's variables for OpenAI's reasoning_effort. Raises InvalidRequest where the model does not reason."""
        if effort is None:
            return {}
        if self.reasoning == "none" and effort != "none":
            text = "This model does not reason. Leave 'reasoning_effort' out, or ask one that does."
            raise InvalidRequest(text, param="reasoning_effort", code="unsupported_parameter")
        wanted: dict[str, Any] = {"enable_thinking": effort != "none", "thinking": effort != "none"}
        if effort != "none":
            wanted["reasoning_effort"] = _EFFORTS.get(effort, effort)
        return {name: value for name, value in wanted.items() if name in self.variables}

    def rendered(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Returns messages as the model's template takes them; one that knows no tools gets them in plain words."""
        known = [self._message(dict(message)) for message in messages]
        return known if self.takes_tools else plain_messages(known, tools)

    def _message(self, message: dict[str, Any]) -> dict[str, Any]:
        thought = message.pop("reasoning_content", None)
        if thought and self.reasoning != "none":
            message[self.thought_key] = thought
        if self.text_arguments or not message.get("tool_calls"):
            return message
        return {**message, "tool_calls": [_with_object(call) for call in message["tool_calls"]]}


def detect(template: str, tokenizer: Any, *, tools: ToolStyle | Literal["auto"], reasoning: ReasoningStyle | Literal["auto"]) -> Dialect:
    """Returns the dialect that a chat template shows, where the settings do not name it."""
    tool_style = _tool_style(template) if tools == "auto" else tools
    reasoning_style = _reasoning_style(template) if reasoning == "auto" else reasoning
    added = {token.content: (index, token.special) for index, token in tokenizer.added_tokens_decoder.items()}
    names = [name for style in {tool_style, reasoning_style} for name in _MARKERS.get(style, ()) if name in added]
    return Dialect(
        tools=tool_style,
        reasoning=reasoning_style,
        takes_tools=re.search(r"\btools\b", template) is not None,
        text_arguments=_TEXT_ARGUMENTS.search(template) is not None,
        named_calls=(tool_style == "mistral" and "[ARGS]" in template) or (tool_style == "deepseek" and "```json" not in template),
        thought_key="thinking" if "message.thinking" in template else "reasoning_content",
        markers={name: added[name][0] for name in names},
        special=frozenset(added[name][0] for name in names if added[name][1]),
        variables=frozenset(name for name in ("enable_thinking", "thinking", "reasoning_effort") if re.search(rf"\b{name}\b", template)),
    )


def thinks_already(prompt_end: str) -> bool:
    """Whether a prompt ends inside the reasoning, as templates that open it do."""
    return prompt_end.rstrip().endswith(reasoning.OPEN)


def thought_already(prompt_end: str) -> bool:
    """Whether a prompt ends after the reasoning, as templates do that are told to leave it out."""
    return prompt_end.rstrip().endswith(reasoning.CLOSE)


def _tool_style(template: str) -> ToolStyle:
    signs: tuple[tuple[str, ToolStyle], ...] = (
        (mistral.OPEN, "mistral"),
        ("<|channel|>", "harmony"),
        (deepseek.BEGIN, "deepseek"),
        (QWEN.key[0], "qwen3_coder"),
        (GLM.key[0], "glm"),
        (hermes.OPEN, "hermes"),
        ("func_name1(", "pythonic"),
        (LLAMA_MARKER, "llama3"),
    )
    return next((style for sign, style in signs if sign in template), "json")


def _reasoning_style(template: str) -> ReasoningStyle:
    if "<|channel|>" in template:
        return "harmony"
    return "think" if reasoning.CLOSE in template else "none"


_PARSERS: dict[ToolStyle, Callable[[Schemas], AnswerParser]] = {
    "harmony": lambda tools: HarmonyParser(),
    "hermes": lambda tools: HermesParser(),
    "qwen3_coder": partial(TaggedParser, QWEN),
    "glm": partial(TaggedParser, GLM),
    "deepseek": lambda tools: DeepSeekParser(),
    "mistral": lambda tools: MistralParser(),
    "llama3": lambda tools: BareParser(tools, LLAMA_MARKER),
    "pythonic": PythonicParser,
    "json": BareParser,
}


def _with_object(call: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a call with its arguments as an object; what is no JSON, as a call that was cut off, stays text."""
    function = dict(call["function"])
    with suppress(orjson.JSONDecodeError):
        function["arguments"] = strict_json.loads(function["arguments"] or "{}")
    return {**call, "function": function}
