"""One request through `model.generate`: our sampler chooses each token, and the library's loop is made to follow.

What the sampler took is the only finite score that the loop sees, so its greedy choice is that token. Seeds, penalties, biases, grammars
and log probabilities are therefore those of the batching engine.
"""

from collections.abc import Callable

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from modelyard_runtime.engine.base import EngineFailed, FinishReason
from modelyard_runtime.engine.core import Outcome, token_event
from modelyard_runtime.engine.sampler import Sampled, failure_of, sample, token_logprobs
from modelyard_runtime.engine.scheduler import ending
from modelyard_runtime.engine.sequence import Sequence
from modelyard_runtime.models.loading import LoadedModel

Publish = Callable[[Outcome], None]


@torch.inference_mode()
def generate(model: LoadedModel, sequence: Sequence, context: int, publish: Publish, wanted: Callable[[], bool]) -> None:
    """Runs a request to its end, telling ``publish`` of each token, or until ``wanted``, asked after each one, says no.

    Raises what the model raises. ``context`` is the longest prompt plus answer, in tokens.
    """
    ids = torch.tensor([sequence.tokens], device=model.device)
    if sequence.sampling.prompt_logprobs is not None:
        logits = model.model(input_ids=ids).logits[0, :-1]
        sequence.prompt_scores += token_logprobs(logits, sequence.tokens[1:], sequence.sampling.prompt_logprobs)
    if sequence.sampling.max_tokens == 0:
        publish(token_event(sequence, Sampled(None), FinishReason.LENGTH))
        return
    chooser = _Chooser(model, sequence, context, publish)
    model.model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        generation_config=GenerationConfig(max_new_tokens=sequence.sampling.max_tokens, do_sample=False, pad_token_id=0),
        logits_processor=LogitsProcessorList([chooser]),
        stopping_criteria=StoppingCriteriaList([_Ending(chooser, wanted)]),
    )


class _Chooser(LogitsProcessor):  # type: ignore[misc]
    """Chooses the next token, tells of it, and leaves it alone to be taken."""

    def __init__(self, model: LoadedModel, sequence: Sequence, context: int, publish: Publish):
        self.ended = False
        self._eos = model.eos_token_ids
        self._sequence = sequence
        self._context = context
        self._publish = publish

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Returns scores of the shape of ``scores``, [1, vocabulary]; a row of which nothing can be chosen fails the request."""
        sampled = sample(scores, [self._sequence.row])[0]
        outcome = self._advance(sampled)
        self.ended = isinstance(outcome, EngineFailed) or outcome.finish_reason is not None
        self._publish(outcome)
        only = torch.full_like(scores, -torch.inf)
        only[0, sampled.token_id or 0] = 0
        return only

    def _advance(self, sampled: Sampled) -> Outcome:
        if sampled.token_id is None:
            return failure_of(self._sequence.row, sampled)
        self._sequence.tokens.append(sampled.token_id)
        silent, reason = ending(self._sequence, self._eos, self._context)
        return token_event(self._sequence, sampled, reason, silent=silent)


class _Ending(StoppingCriteria):  # type: ignore[misc]
    """Ends the loop after the last token, and after the one during which nobody wanted more."""

    def __init__(self, chooser: _Chooser, wanted: Callable[[], bool]):
        self._chooser = chooser
        self._wanted = wanted

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor | None, **kwargs: object) -> torch.Tensor:
        """Returns whether it is over, [1]."""
        return torch.tensor([self._chooser.ended or not self._wanted()], device=input_ids.device)
