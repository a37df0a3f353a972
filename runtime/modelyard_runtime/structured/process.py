"""A process that is asked whether a grammar compiles, before the server compiles it."""

from __future__ import annotations

from modelyard_runtime.child import Child, Ended, Overran

_MOST_BYTES = 1 << 20


class Trial:
    """Asks a process of its own, one grammar at a time, from one thread at a time. ``seconds`` on the processor are the most for one."""

    def __init__(self, tokenizer: str, vocabulary: int, eos: list[int], seconds: float):
        hello = {"tokenizer": tokenizer, "vocabulary": vocabulary, "eos": eos}
        # Native code that runs out of memory says so to stderr, at length.
        self.child = Child("modelyard_runtime.structured.worker", hello, most_bytes=_MOST_BYTES, quiet=True)
        self._seconds = seconds

    def problem(self, grammar: str) -> str | None:
        """Returns why a grammar cannot be used; None when it can. Raises Unreachable when that cannot be found out now."""
        try:
            error: str | None = self.child.ask({"grammar": grammar}, self._seconds)["error"]
        except Overran:
            return f"it took longer than {self._seconds:g} s to compile, which is the limit; make it simpler"
        except Ended:
            return "it needs too much memory to compile; make it simpler"
        return error
