"""A conversation's answer as a response: the whole object, or its events in order."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from modelyard_runtime.api import sse
from modelyard_runtime.api.conversation import Conversation, Tally
from modelyard_runtime.api.errors import to_api_error
from modelyard_runtime.api.logprobs import Spelling
from modelyard_runtime.api.openresponses.body import ResponsesBody
from modelyard_runtime.api.openresponses.events import Event, Output, Status
from modelyard_runtime.engine.base import FinishReason
from modelyard_runtime.serving.sampling import SamplingDefaults


@dataclass(slots=True)
class ResponseAnswer:
    """The answer to ``body``. Close the iterators to cancel it."""

    body: ResponsesBody
    conversation: Conversation
    spelling: Spelling
    defaults: SamplingDefaults
    _id: str = field(default_factory=lambda: f"resp_{uuid.uuid4().hex}")
    _created: int = field(default_factory=lambda: int(time.time()))

    async def whole(self) -> dict[str, Any]:
        """Returns the finished response."""
        last: dict[str, Any] = {}
        async with aclosing(self._events()) as events:
            async for event in events:
                last = event
        response: dict[str, Any] = last["response"]
        return response

    async def stream(self) -> AsyncIterator[bytes]:
        """Yields the events with their sequence numbers; what goes wrong on the way is the last one, ``response.failed``."""
        number = 0
        async with aclosing(self._events()) as events:
            try:
                async for event in events:
                    yield sse.named_event({**event, "sequence_number": number})
                    number += 1
            except Exception as error:  # noqa: BLE001 - the status line is gone: the stream is the one place left to say it
                yield sse.named_event({**self._failed(error), "sequence_number": number})

    async def _events(self) -> AsyncGenerator[Event, None]:
        output, tally = Output(self.body.wants_logprobs), Tally()
        async with aclosing(self.conversation.steps) as steps:
            for name in ("created", "in_progress"):
                yield {"type": f"response.{name}", "response": self._response("in_progress", [])}
            async for step in steps:
                tally.add(step)
                for event in output.add(step, self.spelling):
                    yield event
        status: Status = "incomplete" if tally.finish_reason is FinishReason.LENGTH else "completed"
        for event in output.end(status):
            yield event
        yield {"type": f"response.{status}", "response": self._response(status, output.done) | self._end(status, tally)}

    def _failed(self, error: Exception) -> Event:
        failure = {"code": "server_error", "message": to_api_error(error).message}
        return {"type": "response.failed", "response": self._response("failed", []) | {"error": failure}}

    def _end(self, status: Status, tally: Tally) -> dict[str, Any]:
        """Returns what a response has when it is over."""
        prompt = self.conversation.prompt_tokens
        return {
            "completed_at": int(time.time()) if status == "completed" else None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "usage": {
                "input_tokens": prompt,
                "input_tokens_details": {"cached_tokens": tally.cached_tokens, "cache_write_tokens": 0},
                "output_tokens": tally.tokens,
                "output_tokens_details": {"reasoning_tokens": tally.reasoning_tokens},
                "total_tokens": prompt + tally.tokens,
            },
        }

    def _response(self, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
        """Returns the response as it stands; what the request said is repeated, ``store`` but for: nothing is stored."""
        body = self.body
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "completed_at": None,
            "status": status,
            "model": body.model,
            "output": output,
            "error": None,
            "incomplete_details": None,
            "usage": None,
            "store": False,
            "background": False,
            "previous_response_id": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "reasoning": body.reasoning.model_dump() if body.reasoning else {"effort": None, "summary": None},
            "temperature": self.defaults.temperature if body.temperature is None else body.temperature,
            "text": {"format": (body.text.format if body.text else None) or {"type": "text"}},
            "tool_choice": body.tool_choice or "auto",
            "tools": body.tools or [],
            "top_logprobs": body.top_logprobs or 0,
            "top_p": self.defaults.top_p if body.top_p is None else body.top_p,
            "truncation": "disabled",
        }
