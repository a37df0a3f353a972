"""Chat templates: rendered in a process that can be ended, and what clients write kept apart from what the template writes."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any, ClassVar

import orjson
from transformers.utils.chat_template_utils import mark_control_tokens

from modelyard_runtime.models.prompt import ChatPrompt, Ending
from modelyard_runtime.models.template_worker import LENGTH

_START_SECONDS = 60.0
_MOST_BYTES = 256 << 20
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
        process = self._running()
        assert process.stdin is not None
        try:
            process.stdin.write(LENGTH.pack(len(request)) + request)
            process.stdin.flush()
            return _read(process, self.seconds)
        except TimeoutError:
            self._end()
            raise TemplateRefused(f"it took longer than {self.seconds:g} s, which is the limit", broken=True) from None
        except OSError:
            self._end()
            raise TemplateRefused("it ended the process that renders it", broken=True) from None

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
    """Reads one answer. Raises TimeoutError, or OSError when there will be none."""
    deadline = time.monotonic() + seconds
    size = LENGTH.unpack(_exactly(process, LENGTH.size, deadline))[0]
    if size > _MOST_BYTES:
        raise OSError("the answer is too long")
    answer: dict[str, Any] = orjson.loads(_exactly(process, size, deadline))
    return answer


def _exactly(process: subprocess.Popen[bytes], size: int, deadline: float) -> bytes:
    assert process.stdout is not None
    output, data = process.stdout.fileno(), bytearray()
    poll = select.poll()
    poll.register(output, select.POLLIN)
    while len(data) < size:
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            raise TimeoutError
        chunk = os.read(output, size - len(data))
        if not chunk:
            raise OSError("the process has ended")
        data += chunk
    return bytes(data)
