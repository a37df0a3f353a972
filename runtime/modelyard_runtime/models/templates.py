"""Chat templates: rendered in a process that can be ended, and what clients write kept apart from what the template writes."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from transformers.utils.chat_template_utils import mark_control_tokens

from modelyard_runtime.child import Child, Ended, Overran
from modelyard_runtime.models.prompt import ChatPrompt, Ending

_MOST_BYTES = 256 << 20
#: One of the marks that `mark_control_tokens` writes, which separates where it stands alone.
_APART = mark_control_tokens("x", re.compile("x"))[-1]


class TemplateRefused(ValueError):
    """The template did not render: what it said, or that it took too long. ``broken`` when no request can help it."""

    def __init__(self, message: str, *, broken: bool = False):
        super().__init__(message)
        self.broken = broken


@dataclass(frozen=True, slots=True)
class Controls:
    """What matches the tokens that structure a conversation, and the beginnings of them, the longest of so many characters."""

    tokens: re.Pattern[str]
    beginnings: frozenset[str]
    longest: int

    def begin_in(self, text: str) -> bool:
        """Says whether a text's end may be the beginning of a token."""
        return any(text[-length:] in self.beginnings for length in range(1, 1 + min(len(text), self.longest)))


def control_tokens(tokenizer: Any, template: str) -> Controls:
    """Returns the tokens that structure a conversation: special ones, and added ones that the template writes."""
    named = set(getattr(tokenizer, "chat_control_tokens", None) or ())
    tokens = [
        token.content
        for token in tokenizer.added_tokens_decoder.values()
        if token.special or token.content in named or (token.content.strip() and token.content in template)
    ]
    pattern = re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) or "(?!)")
    beginnings = frozenset(token[:end] for token in tokens for end in range(1, len(token)))
    return Controls(pattern, beginnings, max(map(len, beginnings), default=0))


def marked(prompt: ChatPrompt, controls: Controls) -> ChatPrompt:
    """Returns the prompt with control tokens in clients' strings marked as plain text, for `sanitize_control_tokens` to read.

    A string that ends like the beginning of one gets a lone mark there, which keeps apart what a template puts behind it.
    """

    def mark(value: Any) -> Any:
        if isinstance(value, str):
            text = mark_control_tokens(value, controls.tokens)
            return text + _APART if controls.begin_in(text) else text
        if isinstance(value, Mapping):
            return {mark(key): mark(inner) for key, inner in value.items()}
        return [mark(inner) for inner in value] if isinstance(value, list | tuple) else value

    return ChatPrompt(mark(prompt.messages), mark(prompt.tools), mark(dict(prompt.variables)), prompt.ending)


class TemplateRenderer:
    """Renders templates in a child process, one at a time. May be used from several threads."""

    #: Seconds on the processor that a template may take; a real one takes well under a millisecond per message.
    seconds: ClassVar[float] = 5.0

    def __init__(self) -> None:
        self._child = Child("modelyard_runtime.models.template_worker", {}, most_bytes=_MOST_BYTES)
        self._lock = threading.Lock()

    def render(self, template: str, prompt: ChatPrompt, special_tokens: Mapping[str, str]) -> str:
        """Returns the text of a conversation. Raises TemplateRefused, or Unreachable when the process does not render anything."""
        conversation = {
            "conversations": [prompt.messages],
            "chat_template": template,
            "tools": prompt.tools,
            "add_generation_prompt": prompt.ending is Ending.CUE,
            "continue_final_message": prompt.ending is Ending.CONTINUE,
            **special_tokens,
            **prompt.variables,
        }
        try:
            with self._lock:
                answer = self._child.ask(conversation, self.seconds)
        except Overran:
            raise TemplateRefused(f"it took longer than {self.seconds:g} s, which is the limit", broken=True) from None
        except Ended:
            raise TemplateRefused("it ended the process that renders it", broken=True) from None
        if "error" in answer:
            raise TemplateRefused(answer["message"], broken=answer["error"] in {"TemplateSyntaxError", "MemoryError"})
        return str(answer["text"])

    def close(self) -> None:
        """Ends the process; what is being rendered fails."""
        self._child.kill()
        with self._lock:
            self._child.close()
