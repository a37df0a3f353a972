"""What an engine has done since it was started."""

from dataclasses import dataclass, fields


@dataclass(slots=True)
class Counts:
    """Counters that only grow; written by the engine's thread, read by anybody. Those of the prefix cache are in tokens."""

    steps: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    preemptions: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    drafted: int = 0
    accepted: int = 0
    restarts: int = 0

    def clear(self) -> None:
        """Begins at 0: for what happened before the first client came."""
        for counter in fields(self):
            setattr(self, counter.name, 0)
