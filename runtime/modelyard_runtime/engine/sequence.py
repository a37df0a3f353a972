"""One request on its way through the engine."""

from contextvars import Context, copy_context
from dataclasses import dataclass, field

from modelyard_runtime.engine.base import GenerationRequest, SamplingParams, TokenLogprob
from modelyard_runtime.engine.blocks import extend_digests
from modelyard_runtime.engine.lora import Adapter
from modelyard_runtime.engine.sampler import RowState
from modelyard_runtime.engine.speculation import Speculator


@dataclass(slots=True, eq=False)
class Sequence:
    """A prompt, what was generated after it, and how much of both is in the KV cache.

    ``tokens`` is prompt plus answer; ``computed`` of them have keys and values in ``slot``. The last token of ``tokens`` is never
    computed ahead: the step that computes it samples the next one. ``cached`` tokens of the prompt were found in the cache when it
    began. A sequence that is not ``clean`` had keys or values that are no numbers: nobody may share them. ``context`` is that of the
    request, which lines of log about it are written in.
    """

    request: GenerationRequest
    tokens: list[int]
    row: RowState
    arrival: int = 0
    slot: int | None = None
    computed: int = 0
    cached: int | None = None
    steps_waited: int = 0
    clean: bool = True
    digests: list[bytes] = field(default_factory=list)
    prompt_scores: list[TokenLogprob] = field(default_factory=list)
    speculator: Speculator = field(default_factory=Speculator)
    adapter: Adapter | None = None
    context: Context = field(default_factory=copy_context)

    @classmethod
    def of(cls, request: GenerationRequest, adapter: Adapter | None = None) -> "Sequence":
        """Returns a sequence that has not begun; it keeps its adapter even if that is unloaded meanwhile."""
        return cls(request, list(request.prompt_token_ids), RowState(request.sampling, request.prompt_token_ids), adapter=adapter)

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

    @property
    def scores_prompt(self) -> bool:
        """Whether the prompt's log probabilities are yet to be told: then all of it is computed."""
        return self.sampling.prompt_logprobs is not None and not self.generated

    def known_digests(self) -> list[bytes]:
        """Returns the digests of the full blocks of its tokens."""
        extend_digests(self.digests, self.tokens, self._salt())
        return self.digests

    def _salt(self) -> bytes:
        """Returns what tells its keys and values apart from those of the same tokens elsewhere."""
        adapter = b"" if self.adapter is None else b"%d " % self.adapter.generation
        return adapter + (b"" if self.request.media is None else self.request.media.digest)
