"""What chat and text completions share in their answers."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, TypeVar

T = TypeVar("T")


def usage(prompt_tokens: int, completion_tokens: int, *, cached_tokens: int = 0, reasoning_tokens: int = 0) -> dict[str, Any]:
    """Returns OpenAI's usage object; ``cached_tokens`` of the prompt were not computed anew."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": reasoning_tokens},
    }


def head(prefix: str, model: str, fingerprint: str) -> dict[str, Any]:
    """Returns what an answer and each of its chunks begin with."""
    return {"id": f"{prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model, "system_fingerprint": fingerprint}


async def prefetch(items: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """Waits for the first item and returns all of them, so that an error before it still gets a status line of its own."""
    first = await anext(items, None)
    return _chain(first, items)


async def _chain(first: T | None, rest: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    async with aclosing(rest):
        if first is not None:
            yield first
        async for item in rest:
            yield item
