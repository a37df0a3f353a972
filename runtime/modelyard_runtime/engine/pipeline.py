"""The engine of the last resort: a pipeline class that comes with the weights, which takes text and gives text, one request at a time.

What it says is cut into the tokenizer's tokens afterwards: counts and bounds are in these, and a stream brings them when the call has
ended. What would have to be done for each token as it is chosen is refused by name; so is each setting that the pipeline does not take.

A call of the pipeline cannot be ended from outside. Where it runs its model as a module, a request that nobody wants any more leaves at the
model's next pass; else the call goes on to its end, and what it returns is dropped.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from modelyard_runtime.engine.base import FinishReason, GenerationRequest, NotHonoured, RequestFailed, SamplingParams, TokenEvent
from modelyard_runtime.engine.sampler import GREEDY_BELOW
from modelyard_runtime.engine.sequence import Sequence
from modelyard_runtime.engine.settings import EngineSettings
from modelyard_runtime.engine.single import SingleEngine
from modelyard_runtime.engine.turn import Turn
from modelyard_runtime.hardware import is_out_of_memory
from modelyard_runtime.models.loading import LoadedModel
from modelyard_runtime.models.pipelines import TextPipeline
from modelyard_runtime.models.wording import Wording

logger = logging.getLogger(__name__)

#: Characters of an answer that are looked at for each token asked for: a pipeline may return more than it was asked for.
_CHARACTERS = 256
_ELSE = "or ask a model that another engine runs"
#: What needs each token as it is chosen, by OpenAI's names: the field of SamplingParams and its value when nothing is asked for.
_BY_TOKEN: dict[str, tuple[str, Any]] = {
    "logprobs": ("logprobs", None),
    "echo": ("prompt_logprobs", None),
    "logit_bias": ("logit_bias", {}),
    "presence_penalty": ("presence_penalty", 0.0),
    "frequency_penalty": ("frequency_penalty", 0.0),
    "ignore_eos": ("ignore_eos", False),
    "stop_token_ids": ("stop_token_ids", frozenset()),
    "response_format": ("grammar", None),
}
#: What a pipeline may take, by the library's names, and its value when nothing is asked for.
_NEUTRAL = {"do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
_SAMPLED = ("temperature", "top_p", "top_k", "min_p")
#: The generator that seeds are for is the process's own: one pipeline draws from it at a time.
_RANDOM = Turn()


class PipelineEngine(SingleEngine):
    """A text pipeline over a model that was loaded plain: see `SingleEngine`. It was proved when it was made."""

    def __init__(self, model: LoadedModel, pipeline: TextPipeline, settings: EngineSettings):
        super().__init__("modelyard-pipeline", model, settings)
        self._pipeline = pipeline
        self._wording = Wording(model.tokenizer)

    def check(self, sampling: SamplingParams) -> None:
        """Raises NotHonoured for what needs each token as it is chosen, and for settings that this pipeline does not take."""
        for param, (field, nothing) in _BY_TOKEN.items():
            if getattr(sampling, field) != nothing:
                raise _refused(param, "a pipeline gives text, and not the tokens as they are chosen")
        for name, value in _wishes(sampling).items():
            if name not in self._pipeline.takes and value != _NEUTRAL.get(name, value):
                raise _refused("temperature" if name == "do_sample" else name, "this model's pipeline does not take it")

    def _warmth(self) -> list[GenerationRequest]:
        return [GenerationRequest("warm-up", self._wording.tokens("Hello"), SamplingParams(max_tokens=4))]

    def _compute(self, sequence: Sequence) -> None:
        prompt = self._wording.text(sequence.request.prompt_token_ids)
        if prompt is None:
            raise NotHonoured(
                "prompt", f"The prompt spells a control token, or is no text; a pipeline takes text alone. Reword it, {_ELSE}."
            )
        answer = self._answered(sequence, prompt) if sequence.sampling.max_tokens else ""
        if self._wanted(sequence):
            self._say(sequence, answer)

    def _prove(self) -> None:
        self._pipeline.prove()

    def _answered(self, sequence: Sequence, prompt: str) -> str:
        """Returns what the pipeline says, nothing when nobody wants it any more. Raises RequestFailed when only this request fails."""
        try:
            with self._alone(sequence), self._followed(sequence):
                _seed(sequence.sampling.seed)
                return self._pipeline.answer(prompt, _wishes(sequence.sampling))
        except _Unwanted:
            return ""
        except Exception as error:  # the pipeline's code may be anybody's
            if is_out_of_memory(error) or not self._computes():
                raise
            logger.warning("a request failed in the pipeline", exc_info=error)
            raise RequestFailed(f"The model's pipeline failed on this request ({type(error).__name__})") from error

    def _say(self, sequence: Sequence, answer: str) -> None:
        """Tells of an answer token by token, of as many as were asked for."""
        most = sequence.sampling.max_tokens
        pieces = self._wording.pieces(answer[: most * _CHARACTERS])
        reason, told = FinishReason.STOP if len(pieces) < most else FinishReason.LENGTH, pieces[:most]
        for left, (token, text) in enumerate(told, 1 - len(told)):
            sequence.tokens.append(token)
            self._publish(sequence, TokenEvent(token, None if left else reason, text=text))
        if not told:
            self._publish(sequence, TokenEvent(None, reason))

    @contextmanager
    def _alone(self, sequence: Sequence) -> Iterator[None]:
        """Waits for pipelines of other models, as long as these live: each has a watchdog of its own. Raises _Unwanted."""
        self._watchdog.touch(math.inf)
        with _RANDOM.taken(self, lambda: self._wanted(sequence)) as mine:
            self._watchdog.touch()
            if not mine:
                raise _Unwanted
            yield

    @contextmanager
    def _followed(self, sequence: Sequence) -> Iterator[None]:
        """Asks at each pass of the model whether the answer is still wanted, and tells the watchdog of it. Raises _Unwanted within."""

        def look(*_: object) -> None:
            self._watchdog.touch()
            if not self._wanted(sequence):
                raise _Unwanted

        hook = self._model.model.register_forward_pre_hook(look)
        try:
            yield
        finally:
            hook.remove()


class _Unwanted(Exception):
    """Nobody waits for the answer any more."""


def _wishes(sampling: SamplingParams) -> dict[str, Any]:
    """Returns what a request asks of a pipeline, by the library's names; without sampling, its settings mean nothing."""
    greedy = sampling.temperature < GREEDY_BELOW
    sampled = {} if greedy else {name: getattr(sampling, name) for name in _SAMPLED}
    more = {"repetition_penalty": sampling.repetition_penalty, "return_full_text": False}
    return {"max_new_tokens": sampling.max_tokens, "do_sample": not greedy, **sampled, **more}


def _seed(seed: int | None) -> None:
    """Makes the process's generator that of a request; without a seed nobody knows what comes, whatever seed the last one had."""
    if seed is None:
        torch.seed()
    else:
        torch.manual_seed(seed)


def _refused(param: str, why: str) -> NotHonoured:
    return NotHonoured(param, f"'{param}' cannot be honoured: {why}. Leave it out, {_ELSE}.")
