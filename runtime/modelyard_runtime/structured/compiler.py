"""Grammars compiled for a model's vocabulary: tried in a process of their own, built on a thread, kept while they are in use."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from llguidance import LLMatcher, LLTokenizer

from modelyard_runtime.structured.limits import limits
from modelyard_runtime.structured.matcher import CompiledGrammar
from modelyard_runtime.structured.process import Trial

#: Grammars kept, in use or not; one has up to a few MB of lexer states.
CACHED = 128
#: Grammars that wait for the thread. More than that is not traffic.
_MAX_WAITING = 64


class GrammarRefused(ValueError):
    """A grammar that does not compile, or not within bounds; the message says why in words for a client."""


class GrammarCompiler:
    """Compiles grammars for one tokenizer, off the event loop. Used from one event loop; close it at the end.

    ``vocabulary`` is the width of the model's scores, ``eos`` the tokens that end an answer, ``seconds`` the longest time per grammar.
    """

    def __init__(self, tokenizer: Any, vocabulary: int, eos: Iterable[int], seconds: float):
        self._source = tokenizer
        self._vocabulary = max(vocabulary, len(tokenizer))
        self._eos = sorted(eos)
        self._seconds = seconds
        self._trial: Trial | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="grammar-compiler")
        self._tokenizer: Any = None
        self._cache: OrderedDict[str, CompiledGrammar | GrammarRefused] = OrderedDict()
        self._closed = False
        self._waiting: dict[str, asyncio.Future[CompiledGrammar | GrammarRefused]] = {}

    async def compile(self, grammar: str) -> CompiledGrammar:
        """Returns a compiled grammar. Raises GrammarRefused."""
        outcome = self._cache.get(grammar) or await self._compiled(grammar)
        self._cache[grammar] = outcome
        self._cache.move_to_end(grammar)
        while len(self._cache) > CACHED:
            self._cache.popitem(last=False)
        if isinstance(outcome, GrammarRefused):
            raise GrammarRefused(str(outcome))
        return outcome

    def close(self) -> None:
        """Ends the thread and the process."""
        self._closed = True
        if self._trial is not None:
            self._trial.kill()
            self._thread.submit(self._trial.close)
        self._thread.shutdown()

    async def _compiled(self, grammar: str) -> CompiledGrammar | GrammarRefused:
        """Those who want the same grammar at the same time wait for one compilation."""
        if grammar not in self._waiting:
            if len(self._waiting) >= _MAX_WAITING:
                raise GrammarRefused("too many schemas are being compiled right now; send it again in a moment")
            future = asyncio.get_running_loop().run_in_executor(self._thread, self._build, grammar)
            self._waiting[grammar] = future
            future.add_done_callback(lambda _: self._waiting.pop(grammar, None))
        return await asyncio.shield(self._waiting[grammar])

    # On the compiler's thread.

    def _build(self, grammar: str) -> CompiledGrammar | GrammarRefused:
        """Returns what is true of a grammar for good. Raises GrammarRefused where it was the time: a busy machine is so for a while."""
        if self._closed:
            return GrammarRefused("the model is being unloaded")
        if self._trial is None or self._tokenizer is None:
            text = _serialised(self._source)
            if text is None:
                return GrammarRefused("this model's tokenizer is of a kind that no grammar can bound")
            self._tokenizer = LLTokenizer(text, n_vocab=self._vocabulary, eos_token=self._eos)
            self._trial = Trial(text, self._vocabulary, self._eos, self._seconds)
        try:
            problem = self._trial.problem(grammar)
        except TimeoutError:
            raise GrammarRefused(f"it took longer than {self._seconds:g} s to compile, which is the limit; make it simpler") from None
        if problem is not None:
            return GrammarRefused(_one_line(problem))
        return CompiledGrammar(LLMatcher(self._tokenizer, grammar, log_level=0, limits=limits()))


def _serialised(tokenizer: Any) -> str | None:
    """Returns the tokenizer as JSON, with the tokens that were added when it was loaded; None when it is not of that kind."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return None if backend is None else str(backend.to_str())


def _one_line(text: str) -> str:
    return " ".join(text.split())[:500]
