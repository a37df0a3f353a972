"""What the engine's thread does: steps, one after another. It knows sequences and outcomes, and nothing of the event loop."""

import logging

import torch

from modelyard_runtime.engine.base import EngineFailed, FinishReason, GenerationRequest, RequestFailed, SamplingParams, TokenEvent
from modelyard_runtime.engine.capacity import Capacity
from modelyard_runtime.engine.counts import Counts
from modelyard_runtime.engine.graphs import graphs_for
from modelyard_runtime.engine.runner import Runner, Scores
from modelyard_runtime.engine.sampler import Sampled, failure_of, sample, token_logprobs
from modelyard_runtime.engine.scheduler import Scheduler, Work, ending
from modelyard_runtime.engine.sequence import Sequence
from modelyard_runtime.engine.settings import EngineSettings
from modelyard_runtime.engine.storage import storage
from modelyard_runtime.engine.throttle import Throttle
from modelyard_runtime.hardware import is_out_of_memory
from modelyard_runtime.models.loading import LoadedModel

logger = logging.getLogger(__name__)

Outcome = TokenEvent | EngineFailed
Outcomes = list[tuple[Sequence, Outcome]]


class Core:
    """Scheduler, cache, model and sampler. All but the counters and ``usage`` belong to one thread."""

    def __init__(self, model: LoadedModel, settings: EngineSettings, capacity: Capacity):
        self.counts = Counts()
        self._model = model
        self._settings = settings
        self._capacity = capacity
        self.reset()

    @property
    def busy(self) -> bool:
        """Whether a step would have something to do."""
        return self.scheduler.busy

    @property
    def usage(self) -> float:
        """Share of the KV cache's blocks that running sequences hold."""
        return self.table.held / self.table.blocks

    def reset(self) -> None:
        """Begins anew with the same weights: no sequences, and a cache that nothing was written to."""
        capacity = self._capacity
        cache, self.table = storage(capacity)
        self._throttle = Throttle()
        self.scheduler = Scheduler(self.table, capacity.sequences, self._settings, self._throttle, self.counts)
        graphs = graphs_for(self._model, cache, capacity, self._settings)
        self._runner = Runner(self._model.model, cache, self._model.device, graphs)

    def forget(self) -> None:
        """Makes the counters and the prefix cache those of an engine that did nothing yet."""
        self.table.clear()
        self.counts.clear()

    def step(self) -> Outcomes:
        """Computes one step: the next token of every sequence whose prompt is read, and more of the prompts that are not.

        Returns what came of it. A sequence has several tokens when what was guessed for it turned out right.
        """
        work = self.scheduler.schedule()
        try:
            scores = self._runner.forward(work)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return self._shrink(work, error)
        self.counts.steps += 1
        made_before = self.counts.generation_tokens
        self.scheduler.computed(work, scores.spoiled)
        self._score_prompts(work, scores)
        outcomes: Outcomes = []
        due = [(item, rows, 0) for item, rows in zip(work, scores.next, strict=True) if rows]
        while due:
            sampled = sample(_picked(scores.logits, [rows[i] for _, rows, i in due]), [item.sequence.row for item, _, _ in due])
            made = [self._advance(item.sequence, token) for (item, _, _), token in zip(due, sampled, strict=True)]
            outcomes += [(item.sequence, outcome) for (item, _, _), outcome in zip(due, made, strict=True)]
            due = [(item, rows, i + 1) for (item, rows, i), outcome in zip(due, made, strict=True) if self._guessed(item, i, outcome)]
        self._learn(work)
        self.counts.sized(sum(item.read for item in work) + self.counts.generation_tokens - made_before)
        return outcomes

    def self_test(self) -> None:
        """Generates two tokens. Raises what a step raises."""
        sampling = SamplingParams(temperature=0.0, max_tokens=2, ignore_eos=True)
        self.scheduler.add(Sequence.of(GenerationRequest("self-test", [0], sampling)))
        while self.busy:
            self.step()

    def _advance(self, sequence: Sequence, sampled: Sampled) -> Outcome:
        """Appends a token, and ends the sequence if it is the last."""
        if sequence.sampling.max_tokens == 0:
            self.scheduler.remove(sequence)
            return self._event(sequence, Sampled(None), FinishReason.LENGTH)
        if sampled.token_id is None:
            self.scheduler.remove(sequence, keep=False)
            return failure_of(sequence.row, sampled)
        sequence.tokens.append(sampled.token_id)
        self.counts.generation_tokens += 1
        silent, reason = ending(sequence, self._model.eos_token_ids, self._capacity.length)
        if reason is not None:
            self.scheduler.remove(sequence)
        return self._event(sequence, sampled, reason, silent=silent)

    def _event(self, sequence: Sequence, token: Sampled, reason: FinishReason | None, *, silent: bool = False) -> TokenEvent:
        if sequence.generated <= 1:
            self.counts.prompt_tokens += sequence.prompt_length
        return token_event(sequence, token, reason, silent=silent)

    def _score_prompts(self, work: list[Work], scores: Scores) -> None:
        """Rates the prompt tokens that the step told about, for those who asked."""
        for item, rows in zip(work, scores.prompt, strict=True):
            if rows:
                sequence, first = item.sequence, item.span.start + 1
                targets = sequence.tokens[first : first + len(rows)]
                rated = token_logprobs(scores.logits[rows.start : rows.stop], targets, sequence.sampling.prompt_logprobs or 0)
                sequence.prompt_scores += rated

    def _guessed(self, item: Work, index: int, outcome: Outcome) -> bool:
        """Whether the token just made was guessed: then its keys and values are in the cache, and the next one can be chosen too."""
        if isinstance(outcome, EngineFailed) or outcome.finish_reason is not None:
            return False
        if index == len(item.drafts) or item.drafts[index] != outcome.token_id:
            return False
        item.sequence.computed += 1
        self.counts.accepted += 1
        return True

    def _learn(self, work: list[Work]) -> None:
        for item in work:
            item.sequence.speculator.learn(len(item.drafts), item.sequence.computed - item.known)

    def _shrink(self, work: list[Work], error: Exception) -> Outcomes:
        """Memory ran out: makes the next steps smaller. Where this one could not be smaller, its request does not fit."""
        tokens = sum(item.span.length for item in work)
        logger.warning("a step of %d tokens ran out of memory: %s", tokens, error)
        self.table.clear()
        if tokens > 1:
            self._throttle.tighten(tokens)
            return []
        self._throttle.lift()
        sequence = work[0].sequence
        self.scheduler.remove(sequence, keep=False)
        return [(sequence, RequestFailed(f"memory ran out at token {len(sequence.tokens)} of this request, which was computed alone"))]


def token_event(sequence: Sequence, token: Sampled, reason: FinishReason | None, *, silent: bool = False) -> TokenEvent:
    """Returns what is told of a sequence's newest token; the first one brings what there is to say about the prompt."""
    if sequence.generated > 1:
        return TokenEvent(token.token_id, reason, token.logprob, token.top_logprobs, silent)
    scores = tuple(sequence.prompt_scores) if sequence.sampling.prompt_logprobs is not None else None
    return TokenEvent(token.token_id, reason, token.logprob, token.top_logprobs, silent, scores, sequence.cached or 0)


def _picked(logits: torch.Tensor, rows: list[int]) -> torch.Tensor:
    """Returns rows of the scores, uncopied when they are all."""
    return logits if rows == list(range(len(logits))) else logits[rows]
