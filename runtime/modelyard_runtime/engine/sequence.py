"""One request on its way through the engine."""

from dataclasses import dataclass, field

from modelyard_runtime.engine.base import GenerationRequest, SamplingParams
from modelyard_runtime.engine.sampler import RowState


@dataclass(slots=True, eq=False)
class Sequence:
    """A prompt, what was generated after it, and how much of both is in the KV cache.

    ``tokens`` is prompt plus answer; ``computed`` of them have keys and values in ``slot``. The last token of ``tokens`` is never
    computed ahead: the step that computes it samples the next one.
    """

    request: GenerationRequest
    tokens: list[int]
    row: RowState
    slot: int | None = None
    computed: int = 0
    steps_waited: int = 0
    finished: bool = field(default=False)

    @classmethod
    def of(cls, request: GenerationRequest) -> "Sequence":
        """Returns a sequence that has not begun."""
        return cls(request, list(request.prompt_token_ids), RowState(request.sampling, request.prompt_token_ids))

    @property
    def sampling(self) -> SamplingParams:
        """How its tokens are chosen."""
        return self.request.sampling

    @property
    def prompt_length(self) -> int:
        """Tokens of the prompt."""
        return len(self.request.prompt_token_ids)

    @property
    def generated(self) -> int:
        """Tokens of the answer so far."""
        return len(self.tokens) - self.prompt_length

    @property
    def remaining(self) -> int:
        """Tokens to compute before the next one can be sampled: 1 while decoding, more while the prompt is prefilled."""
        return len(self.tokens) - self.computed
