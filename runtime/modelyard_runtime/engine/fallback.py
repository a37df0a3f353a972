"""The engine for what the batching engine cannot run: `model.generate`, one request at a time, on a thread of its own.

Models whose state is no plain KV cache, or whose attention is their own (Falcon, Bloom, MPT, Mamba, and code that comes with the weights),
run here as Transformers runs them. A request that fails does so alone, while the model still computes.
"""

import logging
from functools import partial

import torch
from transformers import GenerationConfig

from modelyard_runtime.engine.base import (
    EngineFailed,
    EngineStats,
    GenerationRequest,
    MediaUnsupported,
    RequestFailed,
    SamplingParams,
    UnknownAdapter,
)
from modelyard_runtime.engine.blocks import blocks_for
from modelyard_runtime.engine.capacity import Capacity
from modelyard_runtime.engine.checks import check_size, check_tokens
from modelyard_runtime.engine.core import Outcome
from modelyard_runtime.engine.counts import Counts
from modelyard_runtime.engine.generating import generate
from modelyard_runtime.engine.sampler import token_logprobs
from modelyard_runtime.engine.sequence import Sequence
from modelyard_runtime.engine.settings import EngineSettings
from modelyard_runtime.engine.stream import SequenceStream
from modelyard_runtime.engine.threaded import ThreadedEngine, is_last
from modelyard_runtime.engine.throttle import is_out_of_memory
from modelyard_runtime.engine.warmup import warmup_requests
from modelyard_runtime.errors import OutOfMemory, UnsupportedModel
from modelyard_runtime.models.loading import LoadedModel

logger = logging.getLogger(__name__)

#: Longest prompt plus answer without a setting: what a token takes in memory is the model's own affair here.
_LONGEST = 8192
#: Tokens of a prompt, read in one go here, for which the watchdog waits as for one step.
_STEP = 128
#: Requests in a row that may break the model's code; one more is the end.
_FAILURES = 3
_TEST_PROMPT = 5


class GenerateEngine(ThreadedEngine[Sequence]):
    """`model.generate` over a model that was loaded plain: see `base.Engine`. It has no adapters, and reads no images.

    Raises UnsupportedModel when the model does not generate, or its cache changes its scores; OutOfMemory when it does not fit.
    """

    def __init__(self, model: LoadedModel, settings: EngineSettings):
        length = min(settings.max_model_length or _LONGEST, model.context_length)
        capacity = Capacity(1, length, blocks_for(length), 1, 0)
        super().__init__("modelyard-generate", capacity, settings.step_timeout)
        self._model = model
        self._counts = Counts()
        self._running = False
        self._failures = 0
        _prepare(model)
        _prove(model)

    @property
    def adapter_names(self) -> tuple[str, ...]:
        """None: adapters need the batching engine."""
        return ()

    def submit(self, request: GenerationRequest) -> SequenceStream:
        """Queues a request; see `base.Engine.submit`. Raises RequestTooLarge, InvalidTokens, UnknownAdapter or MediaUnsupported."""
        check_size(request, self.max_model_length)
        check_tokens(request, self._model.vocabulary_size)
        if request.lora is not None:
            raise UnknownAdapter(
                f"adapter {request.lora!r}: this model runs outside of the batching engine, where adapters cannot be applied"
            )
        if request.media is not None:
            raise MediaUnsupported("this model runs outside of the batching engine, where images cannot be read: send text only")
        return self._open(Sequence.of(request))

    async def warm_up(self) -> None:
        """Generates a few tokens, greedy and sampled. Raises EngineFailed."""
        for request in warmup_requests(self.capacity, self._model.vocabulary_size):
            async for _ in self.submit(request):
                pass
        self._counts.clear()

    def stats(self) -> EngineStats:
        """Returns a snapshot; the cache is the model's own, and its use is not known."""
        counts, running = self._counts, int(self._running)
        return EngineStats(
            running=running,
            waiting=max(0, len(self._streams) - running),
            kv_cache_usage=0.0,
            prompt_tokens_total=counts.prompt_tokens,
            generation_tokens_total=counts.generation_tokens,
            restarts_total=counts.restarts,
            steps_total=counts.steps,
        )

    # On the engine's thread. A sequence is wanted as long as it has a stream.

    def _run(self) -> None:
        while (sequence := self._inbox.get()) is not None:
            if sequence in self._streams and not self._answer(sequence):
                return

    def _answer(self, sequence: Sequence) -> bool:
        """Generates an answer; returns whether the model can go on."""
        self._running = True
        try:
            with self._watchdog.watching():
                self._watchdog.touch(self._watchdog.timeout * (sequence.prompt_length // _STEP))
                generate(self._model, sequence, self.max_model_length, partial(self._publish, sequence), lambda: sequence in self._streams)
        except Exception as error:  # noqa: BLE001 - the model's code may be anybody's
            return self._recover(sequence, error)
        finally:
            self._running = False
        self._failures = 0
        return True

    def _recover(self, sequence: Sequence, error: Exception) -> bool:
        """Fails the request; returns whether the model still computes."""
        if is_out_of_memory(error):
            logger.warning("a request ran out of memory: %s", error)
            failure: EngineFailed = RequestFailed(
                f"memory ran out at token {len(sequence.tokens)} of this request, which was computed alone"
            )
            self._tell([(sequence, failure)])
            return True
        logger.error("a request failed in the model", exc_info=error)
        failure = EngineFailed(f"the engine failed: {type(error).__name__}: {error}")
        self._tell([(sequence, failure)])
        self._failures += 1
        try:
            with self._watchdog.watching():
                _prove(self._model)
        except (UnsupportedModel, OutOfMemory):
            logger.exception("the model does not compute any more")
            self._failures = _FAILURES + 1
        if self._failures > _FAILURES:
            self._call_loop(partial(self._die, failure))
            return False
        self._counts.restarts += 1
        return True

    def _publish(self, sequence: Sequence, outcome: Outcome) -> None:
        self._watchdog.touch()
        self._counts.steps += 1
        if sequence.generated <= 1:
            self._counts.prompt_tokens += sequence.prompt_length
        if not isinstance(outcome, EngineFailed) and outcome.token_id is not None:
            self._counts.generation_tokens += 1
        self._running = not is_last(outcome)
        self._tell([(sequence, outcome)])

    # On the event loop.

    def _joined(self, sequence: Sequence) -> None:
        self._inbox.put(sequence)

    def _left(self, sequence: Sequence) -> None:
        """The thread looks for the stream after each token."""


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
