"""The engine for what the batching engine cannot run: `model.generate`, one request at a time, on a thread of its own.

Models whose state is no plain KV cache, or whose attention is their own (Falcon, Bloom, MPT, Mamba, and code that comes with the weights),
run here as Transformers runs them. A request that fails does so alone, while the model still computes.
"""

from functools import partial

import torch
from transformers import GenerationConfig

from modelyard_runtime.engine.base import EngineFailed, GenerationRequest, SamplingParams
from modelyard_runtime.engine.core import Outcome
from modelyard_runtime.engine.generating import generate
from modelyard_runtime.engine.sampler import token_logprobs
from modelyard_runtime.engine.sequence import Sequence
from modelyard_runtime.engine.settings import EngineSettings
from modelyard_runtime.engine.single import SingleEngine
from modelyard_runtime.engine.warmup import warmup_requests
from modelyard_runtime.errors import OutOfMemory, UnsupportedModel
from modelyard_runtime.hardware import is_out_of_memory
from modelyard_runtime.models.loading import LoadedModel

#: Tokens of a prompt, read in one go here, for which the watchdog waits as for one step.
_STEP = 128
_TEST_PROMPT = 5


class GenerateEngine(SingleEngine):
    """`model.generate` over a model that was loaded plain: see `SingleEngine`.

    Raises UnsupportedModel when the model does not generate, or its cache changes its scores; OutOfMemory when it does not fit.
    """

    def __init__(self, model: LoadedModel, settings: EngineSettings):
        _prepare(model)
        _prove(model)
        super().__init__("modelyard-generate", model, settings)

    def _warmth(self) -> list[GenerationRequest]:
        return warmup_requests(self.capacity, self._model.vocabulary_size)

    def _compute(self, sequence: Sequence) -> None:
        self._watchdog.touch(self._watchdog.timeout * (sequence.prompt_length // _STEP))
        generate(self._model, sequence, self.max_model_length, partial(self._publish, sequence), lambda: self._wanted(sequence))

    def _prove(self) -> None:
        _prove(self._model)


def _prepare(model: LoadedModel) -> None:
    """Gives the model an attention of the library's, and takes away what its files say about sampling: requests have that already."""
    try:
        model.model.set_attn_implementation("sdpa")
    except (ValueError, ImportError):
        model.model.set_attn_implementation("eager")
    model.model.generation_config = GenerationConfig()


def _prove(model: LoadedModel) -> None:
    """Generates two tokens, and compares the second's score with that of the whole text without a cache. Raises as `GenerateEngine`."""
    prompt = [(7 * i + 3) % model.vocabulary_size for i in range(_TEST_PROMPT)]
    sampling = SamplingParams(temperature=0.0, max_tokens=2, ignore_eos=True, logprobs=0)
    sequence, outcomes = Sequence.of(GenerationRequest("self-test", prompt, sampling)), list[Outcome]()
    try:
        generate(model, sequence, _TEST_PROMPT + 2, outcomes.append, lambda: True)
        if isinstance(outcomes[-1], EngineFailed):
            raise outcomes[-1]
        with torch.inference_mode():
            logits = model.model(input_ids=torch.tensor([sequence.tokens[:-1]], device=model.device)).logits[0, -1:]
        error = abs(token_logprobs(logits, sequence.tokens[-1:], 0)[0].logprob - (outcomes[-1].logprob or 0.0))
    except Exception as cause:  # the model's code may be anybody's
        if is_out_of_memory(cause):
            raise OutOfMemory(f"{type(model.model).__name__} does not fit the memory of {model.device}: {cause}") from cause
        raise UnsupportedModel(f"{type(model.model).__name__} does not generate: {type(cause).__name__}: {cause}") from cause
    if not error <= (1e-2 if model.dtype == torch.float32 else 0.5):
        raise UnsupportedModel(f"{type(model.model).__name__}: with its cache, log probabilities differ by {error:.2g} from those without")
