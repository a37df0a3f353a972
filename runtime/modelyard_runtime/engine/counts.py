"""What an engine has done since it was started."""

from bisect import bisect_left
from dataclasses import dataclass, field, fields

from modelyard_runtime.engine.base import STEP_SIZES, EngineStats


@dataclass(slots=True)
class Counts:
    """Counters that only grow; written by the engine's thread, read by anybody. Those of the prefix cache are in tokens.

    ``steps_by_size`` counts steps by STEP_SIZES, with those that are larger at the end.
    """

    steps: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    preemptions: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    drafts: int = 0
    drafted: int = 0
    accepted: int = 0
    restarts: int = 0
    step_tokens: int = 0
    steps_by_size: list[int] = field(default_factory=lambda: [0] * (len(STEP_SIZES) + 1))

    def sized(self, tokens: int) -> None:
        """Takes down how many tokens a step read of prompts and made."""
        self.step_tokens += tokens
        self.steps_by_size[bisect_left(STEP_SIZES, tokens)] += 1

    def stats(self, running: int, requests: int) -> EngineStats:
        """Returns a snapshot of an engine that computes ``running`` of its ``requests``; it has nothing of a cache or of adapters yet."""
        return EngineStats(
            running=running,
            waiting=max(0, requests - running),
            kv_cache_usage=0.0,
            prompt_tokens_total=self.prompt_tokens,
            generation_tokens_total=self.generation_tokens,
            preemptions_total=self.preemptions,
            prefix_cache_hits_total=self.prefix_hits,
            prefix_cache_queries_total=self.prefix_queries,
            draft_tokens_total=self.drafted,
            accepted_tokens_total=self.accepted,
            drafts_total=self.drafts,
            restarts_total=self.restarts,
            steps_total=self.steps,
            steps_by_size=tuple(self.steps_by_size),
            step_tokens_total=self.step_tokens,
        )

    def clear(self) -> None:
        """Begins at 0: for what happened before the first client came."""
        new = Counts()
        for counter in fields(self):
            setattr(self, counter.name, getattr(new, counter.name))
