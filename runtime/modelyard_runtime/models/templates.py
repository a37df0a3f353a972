"""Chat templates: rendered in a process that can be ended, and what clients write kept apart from what the template writes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Any, ClassVar

import orjson
from transformers.utils.chat_template_utils import mark_control_tokens

from modelyard_runtime import framing
from modelyard_runtime.models.prompt import ChatPrompt, Ending

_START_SECONDS = 60.0
_MOST_BYTES = 256 << 20
#: What ends the process need not be the template it renders; if it ends again, in a new process, it is.
_ATTEMPTS = 2
#: What the process needs of the environment: to find Python and its packages, and to tell the time. No secret is among it.
_ENVIRONMENT = ("PATH", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "HOME", "LANG", "LC_ALL", "TZ")


class TemplateRefused(ValueError):
    """The template did not render: what it said, or that it took too long. ``broken`` when no request can help it."""

    def __init__(self, message: str, *, broken: bool = False):
        super().__init__(message)
        self.broken = broken


def control_tokens(tokenizer: Any, template: str) -> re.Pattern[str]:
    """Returns what matches the tokens that structure a conversation: special ones, and added ones that the template writes."""
    named = set(getattr(tokenizer, "chat_control_tokens", None) or ())
    tokens = [
        token.content
        for token in tokenizer.added_tokens_decoder.values()
        if token.special or token.content in named or (token.content.strip() and token.content in template)
    ]
    return re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) or "(?!)")


def marked(prompt: ChatPrompt, controls: re.Pattern[str]) -> ChatPrompt:
    """Returns the prompt with control tokens in clients' strings marked as plain text, for `sanitize_control_tokens` to read."""

    def mark(value: Any) -> Any:
        return mark_control_tokens(value, controls)

    return ChatPrompt(mark(prompt.messages), mark(prompt.tools), mark(dict(prompt.variables)), prompt.ending)


class TemplateRenderer:
    """Renders templates in a child process, one at a time. May be used from several threads."""

    #: Seconds that a template may take; a real one takes well under a millisecond per message.
    seconds: ClassVar[float] = 5.0

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def render(self, template: str, prompt: ChatPrompt, special_tokens: Mapping[str, str]) -> str:
        """Returns the text of a conversation. Raises TemplateRefused."""
        request = {
            "conversations": [prompt.messages],
            "chat_template": template,
            "tools": prompt.tools,
            "add_generation_prompt": prompt.ending is Ending.CUE,
            "continue_final_message": prompt.ending is Ending.CONTINUE,
            **special_tokens,
            **prompt.variables,
        }
        with self._lock:
            answer = self._ask(orjson.dumps(request))
        if "error" in answer:
            raise TemplateRefused(answer["message"], broken=answer["error"] in {"TemplateSyntaxError", "MemoryError"})
        return str(answer["text"])

    def close(self) -> None:
        """Ends the process."""
        with self._lock:
            self._end()

    def _ask(self, request: bytes) -> dict[str, Any]:
        for _ in range(_ATTEMPTS):
            try:
                return self._answer(request)
            except TimeoutError:
                self._end()
                raise TemplateRefused(f"it took longer than {self.seconds:g} s, which is the limit", broken=True) from None
            except OSError:
                self._end()
        raise TemplateRefused("it ended the process that renders it", broken=True)

    def _answer(self, request: bytes) -> dict[str, Any]:
        process = self._running()
        framing.send(process, request, self.seconds)
        return _read(process, self.seconds)

    def _running(self) -> subprocess.Popen[bytes]:
        """Returns the process, started where there is none."""
        if self._process is None or self._process.poll() is not None:
            self._end()
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "modelyard_runtime.models.template_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
            )
            _read(self._process, _START_SECONDS)
        return self._process

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def _read(process: subprocess.Popen[bytes], seconds: float) -> dict[str, Any]:
    answer: dict[str, Any] = orjson.loads(framing.receive(process, seconds, _MOST_BYTES))
    return answer
