"""From what clients write to tokens: chat templates and plain text, on threads of their own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any, TypeVar

from modelyard.api.errors import InvalidRequest, Unavailable

from modelyard_runtime.child import Unreachable
from modelyard_runtime.errors import Crashed
from modelyard_runtime.logs import run_on
from modelyard_runtime.models.prompt import ChatPrompt
from modelyard_runtime.models.templates import TemplateRefused, TemplateRenderer, control_tokens, marked
from modelyard_runtime.panics import reading

logger = logging.getLogger(__name__)

T = TypeVar("T")


class PromptReader:
    """A tokenizer and its chat template. Close it at the end: it has ``threads`` and a process.

    A tokenizer that hangs cannot take more of the process than those threads.
    """

    def __init__(self, tokenizer: Any, threads: int = 2):
        self._tokenizer = tokenizer
        self._renderer = TemplateRenderer()
        self._controls = lru_cache(8)(partial(control_tokens, tokenizer))
        self.threads = threads
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="prompt-reader")

    @property
    def has_template(self) -> bool:
        """Whether there is a chat template; without one a model serves completions alone."""
        return bool(self._tokenizer.chat_template)

    async def chat(self, prompt: ChatPrompt) -> list[int]:
        """Returns the tokens of a conversation. Raises InvalidRequest when the template or the tokenizer refuses it.

        Raises Unavailable when none can be rendered.

        What clients wrote is text even where it spells a token that structures the conversation.
        """
        return await self._on_thread(lambda: self._chat(prompt))

    async def text(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Returns the tokens of plain text. Raises InvalidRequest when the tokenizer gives up on it."""
        return await self._on_thread(lambda: self._text(text, add_special_tokens))

    async def decode(self, tokens: Sequence[int]) -> str:
        """Returns the text of tokens, special ones by their names."""
        return await self._on_thread(lambda: str(self._tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False)))

    async def spell(self, tokens: Sequence[int]) -> list[str]:
        """Returns each token as the vocabulary spells it; those that the model has and the tokenizer lacks are empty."""
        return await self._on_thread(lambda: [token or "" for token in self._tokenizer.convert_ids_to_tokens(list(tokens))])

    def check_template(self) -> None:
        """Renders a greeting; blocks. Raises TemplateRefused when the template is broken; one that only minds the greeting is not.

        Raises Crashed when nothing can be rendered.
        """
        try:
            self._render(ChatPrompt([{"role": "user", "content": "Hello"}]))
        except TemplateRefused as refusal:
            if refusal.broken:
                raise
        except Unreachable as failure:
            raise Crashed(
                f"the process that renders chat templates: {failure}", "give the server more memory, and start it again"
            ) from failure

    def close(self) -> None:
        """Ends the threads and the process; prompts that are being read fail."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._renderer.close()

    async def _on_thread(self, work: Callable[[], T]) -> T:
        return await run_on(self._threads, work)

    def _chat(self, prompt: ChatPrompt) -> list[int]:
        if not self.has_template:
            raise InvalidRequest("this model has no chat template: use /v1/completions", param="messages")
        try:
            text, sanitise = self._render(prompt)
            with reading("messages"):
                encoded = self._tokenizer(text, add_special_tokens=False, verbose=False, sanitize_control_tokens=sanitise)
        except ValueError as error:
            cause = str(error).rstrip(".")
            raise InvalidRequest(
                f"The model's chat template refuses these messages: {cause}. Change the messages, or use /v1/completions.", param="messages"
            ) from error
        except Unreachable as failure:
            logger.warning("the process that renders chat templates: %s", failure)
            raise Unavailable(
                "The chat template could not be rendered now: its process does not answer. Send the request again.",
                code="template_process_failed",
                retry_after=5,
            ) from failure
        return list(encoded["input_ids"])

    def _render(self, prompt: ChatPrompt) -> tuple[str, bool]:
        """Returns the text, and whether control tokens in it are marked as text. Raises TemplateRefused, ValueError or Unreachable."""
        template = self._tokenizer.get_chat_template(None, prompt.tools)
        safe = marked(prompt, self._controls(template))
        return self._renderer.render(template, safe, self._tokenizer.special_tokens_map), safe != prompt

    def _text(self, text: str, add_special_tokens: bool) -> list[int]:
        with reading("prompt"):
            return list(self._tokenizer(text, add_special_tokens=add_special_tokens, verbose=False)["input_ids"])
