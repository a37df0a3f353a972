"""Grammars compiled for a model's vocabulary: tried in a process of their own, built on a thread, kept while they are in use."""

from __future__ import annotations

import asyncio
import logging
import re
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import blake2b
from typing import Any, Generic, TypeVar

from llguidance import LLMatcher, LLTokenizer
from modelyard.api.errors import Unavailable

from modelyard_runtime.child import Unreachable
from modelyard_runtime.logs import run_on
from modelyard_runtime.structured.limits import limits
from modelyard_runtime.structured.matcher import CompiledGrammar
from modelyard_runtime.structured.process import Trial

_PLACE = re.compile(r"^at \d+\(\d+\): (?:failed to compile JSON schema: )?")
#: Where the library begins to show the grammar, from some lines above the one that it speaks of.
_SHOWN = re.compile(r"\n +\d+ \| ")
#: A pattern that is none, shown over a line of marks, and what is wrong with it.
_PATTERN = re.compile(r"regex parse error:\n *(?P<pattern>[^\n]+)\n *\^[ ^]*\nerror: (?P<why>.+)", re.DOTALL)
logger = logging.getLogger(__name__)
T = TypeVar("T")

#: Grammars kept, in use or not; one has up to a few MB of lexer states.
CACHED = 128
#: Refusals kept, a line each. They are apart, so that whoever sends grammars that do not compile takes nobody's grammar away.
_REFUSED = 1024
#: Grammars that wait for the thread. More than that is not traffic.
_MAX_WAITING = 64


class GrammarRefused(ValueError):
    """A grammar that does not compile, or not within bounds; the message says why in words for a client."""


class _Recent(Generic[T]):
    """The ``size`` entries that were used last."""

    def __init__(self, size: int):
        self._size = size
        self._entries: OrderedDict[bytes, T] = OrderedDict()

    def get(self, key: bytes) -> T | None:
        """Returns an entry, if it is still there."""
        if key in self._entries:
            self._entries.move_to_end(key)
        return self._entries.get(key)

    def put(self, key: bytes, entry: T) -> None:
        """Keeps an entry, in place of the one that was not used for the longest time."""
        self._entries[key] = entry
        if len(self._entries) > self._size:
            self._entries.popitem(last=False)


class GrammarCompiler:
    """Compiles grammars for one tokenizer, off the event loop. Used from one event loop; close it at the end.

    ``vocabulary`` is the width of the model's scores, ``eos`` the tokens that end an answer, ``seconds`` the longest time on the
    processor per grammar.
    """

    def __init__(self, tokenizer: Any, vocabulary: int, eos: Iterable[int], seconds: float):
        self._source = tokenizer
        self._vocabulary = max(vocabulary, len(tokenizer))
        self._eos = sorted(eos)
        self._seconds = seconds
        self._trial: Trial | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="grammar-compiler")
        self._tokenizer: Any = None
        self._compiled = _Recent[CompiledGrammar](CACHED)
        self._refused = _Recent[str](_REFUSED)
        self._closed = False
        self._waiting: dict[bytes, asyncio.Future[CompiledGrammar | GrammarRefused]] = {}

    async def compile(self, grammar: str) -> CompiledGrammar:
        """Returns a compiled grammar. Raises GrammarRefused, at once where it was so before; Unavailable where it cannot be tried now."""
        key = blake2b(grammar.encode(), digest_size=16).digest()
        if (why := self._refused.get(key)) is not None:
            raise GrammarRefused(why)
        if (known := self._compiled.get(key)) is not None:
            return known
        outcome = await self._outcome(key, grammar)
        if isinstance(outcome, GrammarRefused):
            self._refused.put(key, str(outcome))
            raise GrammarRefused(str(outcome))
        self._compiled.put(key, outcome)
        return outcome

    def close(self) -> None:
        """Ends the thread and the process."""
        self._closed = True
        if self._trial is not None:
            self._trial.child.kill()
            self._thread.submit(self._trial.child.close)
        self._thread.shutdown()

    async def _outcome(self, key: bytes, grammar: str) -> CompiledGrammar | GrammarRefused:
        """Those who want the same grammar at the same time wait for one compilation."""
        if key not in self._waiting:
            if self._closed or len(self._waiting) >= _MAX_WAITING:
                raise _unavailable("the model is being unloaded" if self._closed else f"{_MAX_WAITING} others are being compiled")
            future = run_on(self._thread, partial(self._build, grammar))
            self._waiting[key] = future
            future.add_done_callback(lambda _: self._waiting.pop(key, None))
        return await asyncio.shield(self._waiting[key])

    # On the compiler's thread.

    def _build(self, grammar: str) -> CompiledGrammar | GrammarRefused:
        """Returns what is true of a grammar for good, however busy the machine is. Raises Unavailable where that was not found out."""
        if self._closed:
            raise _unavailable("the model is being unloaded")
        if self._trial is None or self._tokenizer is None:
            text = _serialised(self._source)
            if text is None:
                return GrammarRefused("this model's tokenizer is of a kind that no grammar can bound")
            self._tokenizer = LLTokenizer(text, n_vocab=self._vocabulary, eos_token=self._eos)
            self._trial = Trial(text, self._vocabulary, self._eos, self._seconds)
        try:
            problem = self._trial.problem(grammar)
        except Unreachable as failure:
            logger.warning("the process that tries grammars: %s", failure)
            raise _unavailable("the process that tries it does not answer") from failure
        if problem is not None:
            return GrammarRefused(_one_line(problem))
        return CompiledGrammar(LLMatcher(self._tokenizer, grammar, log_level=0, limits=limits()))


def _unavailable(why: str) -> Unavailable:
    return Unavailable(f"The schema cannot be compiled now: {why}. Send the request again.", code="grammar_unavailable", retry_after=2)


def _serialised(tokenizer: Any) -> str | None:
    """Returns the tokenizer as JSON, with the tokens that were added when it was loaded; None when it is not of that kind."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return None if backend is None else str(backend.to_str())


def _one_line(text: str) -> str:
    """Returns the library's own words: without the place in a grammar that no client sees, the grammar, or how the library is built."""
    if text.startswith("panic"):
        return "it is too large for a grammar; make it simpler"
    words = _PLACE.sub("", _SHOWN.split(text, maxsplit=1)[0])
    if (found := _PATTERN.search(words)) is not None:
        return f"the pattern {found['pattern'][:200]!r} cannot be kept: {' '.join(found['why'].split())[:200]}; write it another way"
    return " ".join(words.split())[:500]
