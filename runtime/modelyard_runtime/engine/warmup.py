"""Requests that take every path through the engine once, before the first client does."""

from modelyard_runtime.engine.base import GenerationRequest, SamplingParams
from modelyard_runtime.engine.capacity import Capacity

_NEW_TOKENS = 4
_LONGEST_PROMPT = 64


def warmup_requests(capacity: Capacity, vocabulary: int) -> list[GenerationRequest]:
    """Returns a few short requests, no more than run at once: long and short prompts, greedy, sampled and penalised."""
    sampled = SamplingParams(temperature=0.8, top_p=0.9, top_k=20, min_p=0.01, seed=0, max_tokens=_NEW_TOKENS, ignore_eos=True)
    penalised = SamplingParams(temperature=0, presence_penalty=0.1, repetition_penalty=1.1, max_tokens=_NEW_TOKENS, ignore_eos=True)
    greedy = SamplingParams(temperature=0, max_tokens=_NEW_TOKENS, ignore_eos=True)
    longest = min(_LONGEST_PROMPT, capacity.length - _NEW_TOKENS)
    shapes = [(greedy, longest), (sampled, longest // 2), (penalised, 1)]
    return [
        GenerationRequest(f"warm-up-{i}", [token % vocabulary for token in range(max(1, length))], sampling)
        for i, (sampling, length) in enumerate(shapes)
    ]
