"""How a chat model is heard and bound: its dialect, and grammars for its vocabulary."""

from __future__ import annotations

from collections.abc import Sequence

from modelyard.api.errors import InvalidRequest

from modelyard_runtime.models.answer import AnswerParser
from modelyard_runtime.models.answer_reader import AnswerReader
from modelyard_runtime.models.dialect import Dialect, detect, thinks_already, thought_already
from modelyard_runtime.models.loading import LoadedModel
from modelyard_runtime.models.tools.grammars import Wanted, answer_grammar
from modelyard_runtime.models.tools.listed import NotListed
from modelyard_runtime.models.tools.values import Schemas
from modelyard_runtime.settings import ServeSettings
from modelyard_runtime.structured.compiler import GrammarCompiler, GrammarRefused
from modelyard_runtime.structured.matcher import CompiledGrammar

#: Tokens at a prompt's end that tell whether it opens the reasoning.
_END = 12


class Speech:
    """A model's dialect and the compiler of its grammars. Close it at the end: the compiler has a thread and a process.

    ``bounds`` says whether what runs the model keeps to grammars.
    """

    def __init__(self, loaded: LoadedModel, settings: ServeSettings, *, bounds: bool = True):
        self.dialect = _dialect(loaded, settings)
        self._bounds = bounds
        self._tokenizer = loaded.tokenizer
        self._compiler = GrammarCompiler(
            loaded.tokenizer, loaded.vocabulary_size, loaded.eos_token_ids, settings.grammar_timeout.total_seconds()
        )

    def parser(self, prompt: Sequence[int], tools: Schemas, *, parallel: bool) -> AnswerParser:
        """Returns a fresh parser for an answer to a prompt; see `Dialect.parser`."""
        return self.dialect.parser(tools, thinks=thinks_already(self._end(prompt)), parallel=parallel)

    def reader(self, prompt: Sequence[int], tools: Schemas, stop: Sequence[str], *, parallel: bool) -> AnswerReader:
        """Returns what reads an answer to a prompt, up to a stop string, or to the end of the only call that it may have."""
        return AnswerReader(self.parser(prompt, tools, parallel=parallel), stop, one_call=bool(tools) and not parallel)

    async def grammar(self, prompt: Sequence[int], wanted: Wanted, param: str) -> CompiledGrammar:
        """Returns the grammar of an answer to a prompt. Raises InvalidRequest, which names ``param``."""
        if not self._bounds:
            raise InvalidRequest(
                f"'{param}' cannot be honoured: a pipeline gives text as it is, which nothing bounds. "
                "Leave it out, or ask a model that another engine runs.",
                param=param,
                code="invalid_value",
            )
        end = self._end(prompt)
        try:
            text = answer_grammar(self.dialect, wanted, thinks=thinks_already(end), thought=thought_already(end))
            return await self._compiler.compile(text)
        except (GrammarRefused, NotListed) as refused:
            raise InvalidRequest(f"Invalid '{param}': {refused}.", param=param, code="invalid_value") from refused

    def close(self) -> None:
        """Ends the compiler."""
        self._compiler.close()

    def _end(self, prompt: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(prompt[-_END:]), skip_special_tokens=False))


def _dialect(loaded: LoadedModel, settings: ServeSettings) -> Dialect:
    template = loaded.tokenizer.chat_template or ""
    text = template if isinstance(template, str) else "\n".join(map(str, template.values()))
    return detect(text, loaded.tokenizer, tools=settings.tool_parser, reasoning=settings.reasoning_parser)
