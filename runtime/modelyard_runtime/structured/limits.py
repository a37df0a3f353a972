"""Bounds of llguidance's parser and lexer, in its own units."""

from __future__ import annotations

from llguidance import LLParserLimits


def limits() -> LLParserLimits:
    """Returns bounds on one grammar's work: about 20 ms for a token's mask at worst, and 100 MB of lexer states.

    Errors do not quote the grammar: they go to clients and logs.
    """
    return LLParserLimits(step_lexer_fuel=200_000, step_max_items=50_000, max_lexer_states=50_000, verbose_errors=False)
