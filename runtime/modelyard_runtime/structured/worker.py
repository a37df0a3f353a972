"""The process that tries grammars first: ``python -m modelyard_runtime.structured.worker``.

Compiling is native code that cannot be interrupted, over input that clients send: a handful of regular expressions that must all hold can
take it hours. What hangs or fills the memory here is ended from outside, and the server never compiles it. The first message brings the
tokenizer; a question is a grammar.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llguidance import LLMatcher, LLTokenizer

from modelyard_runtime.structured.limits import limits
from modelyard_runtime.worker import Message, live


def _judge(hello: Message) -> Callable[[Message], Message]:
    tokenizer = LLTokenizer(hello["tokenizer"], n_vocab=hello["vocabulary"], eos_token=hello["eos"])
    return lambda question: {"error": _problem(tokenizer, question["grammar"])}


def _problem(tokenizer: Any, grammar: str) -> str | None:
    """Returns why a grammar cannot be used; None when it can."""
    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=limits())
    if not matcher.is_error() and (matcher.is_stopped() or not any(matcher.compute_bitmask()) or matcher.stop_reason() != "NotStopped"):
        return "nothing fits it: its rules contradict each other, or refer to each other without end"
    return str(matcher.get_error()) or None


if __name__ == "__main__":
    live(_judge)
