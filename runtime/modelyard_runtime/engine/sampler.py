"""Choosing the next token of every row at once.

Order as in `model.generate`: penalties and bias on the raw scores, what the grammar forbids, then temperature, top-k, top-p, min-p.
Randomness is one uniform number per row and token from the row's own generator, put through the inverse of the row's distribution: what a
seed gives does not depend on what else is in the batch.
"""

import random
from collections.abc import Sequence as Items
from dataclasses import dataclass

import torch

from modelyard_runtime.engine.base import GrammarFailed, RequestFailed, SamplingParams, TokenLogprob
from modelyard_runtime.engine.constraint import Constraint

#: Below this a temperature is greedy: dividing by it would overflow.
GREEDY_BELOW = 1e-5
#: Scores that are searched at once for the best.
_BLOCK = 128
#: Tokens that top-p looks at before it sorts the whole vocabulary.
_NUCLEUS = 512


class RowState:
    """What sampling keeps for one sequence: its random generator, its place in the grammar and, for penalties, counts of its tokens."""

    def __init__(self, params: SamplingParams, prompt: Items[int]):
        self.params = params
        self.random = random.Random(params.seed)  # noqa: S311 - it samples text, it keeps no secret
        self.constraint = None if params.grammar is None else Constraint(params.grammar)
        self._prompt = prompt
        self._counts: torch.Tensor | None = None
        self._seen: torch.Tensor | None = None

    @property
    def greedy(self) -> bool:
        """Whether the most probable token is taken."""
        return self.params.temperature < GREEDY_BELOW

    @property
    def penalised(self) -> bool:
        """Whether what was said before changes the scores."""
        p = self.params
        return p.presence_penalty != 0 or p.frequency_penalty != 0 or p.repetition_penalty != 1

    def history(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns how often each token was generated, and which ones the prompt or the answer holds; both [vocabulary]."""
        if self._counts is None or self._seen is None:
            self._counts = torch.zeros_like(like)
            self._seen = torch.zeros_like(like, dtype=torch.bool)
            self._seen[torch.tensor(list(self._prompt), dtype=torch.long, device=like.device)] = True
        return self._counts, self._seen

    def note(self, token: int) -> None:
        """Takes down a generated token."""
        if self._counts is not None and self._seen is not None:
            self._counts[token] += 1
            self._seen[token] = True


@dataclass(frozen=True, slots=True)
class Sampled:
    """A row's next token. ``token_id`` is None when there is none, for the reason in ``failure``: such a row can only fail."""

    token_id: int | None
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()
    failure: str | None = None


def sample(logits: torch.Tensor, rows: Items[RowState]) -> list[Sampled]:
    """Returns the next token of each row. ``logits`` is [rows, vocabulary]; ``rows`` take down what was chosen."""
    logits = logits.float()
    scores = _constrained(_adjusted(logits, rows), rows, logits)
    best, tokens = highest(scores)
    drawn = [i for i, row in enumerate(rows) if not row.greedy]
    if drawn:
        tokens[drawn] = draw(scores[drawn], [rows[i].params for i in drawn], [rows[i].random.random() for i in drawn])
    finite = best.isfinite().tolist()
    chosen = [token if ok else None for token, ok in zip(tokens.tolist(), finite, strict=True)]
    for row, token in zip(rows, chosen, strict=True):
        if token is not None:
            row.note(token)
    return _with_logprobs(logits, rows, chosen)


def highest(scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns each row's best score and its first token, both [rows]; not a number where the row has one that is not.

    The library's own search looks at one number after another; finding the best of blocks, and then searching one, is ten times as fast.
    """
    rows, vocabulary = scores.shape
    if vocabulary % _BLOCK or not scores.is_contiguous():
        best, tokens = scores.max(-1)
        return best, tokens
    blocks = scores.view(rows, -1, _BLOCK)
    best, block = blocks.amax(-1).max(-1)
    within = blocks[torch.arange(rows, device=scores.device), block].argmax(-1)
    return best, block * _BLOCK + within


def _constrained(scores: torch.Tensor, rows: Items[RowState], logits: torch.Tensor) -> torch.Tensor:
    """Returns the scores with what grammars forbid at minus infinity; the same tensor when no row has one."""
    bound = [i for i, row in enumerate(rows) if row.constraint is not None]
    if bound and scores is logits:
        scores = logits.clone()
    for i in bound:
        constraint = rows[i].constraint
        assert constraint is not None
        constraint.mask(scores[i])
    return scores


def draw(scores: torch.Tensor, params: Items[SamplingParams], uniforms: Items[float]) -> torch.Tensor:
    """Returns one token per row, [rows]: the first whose cumulated probability passes the row's uniform number in [0, 1)."""
    probabilities = distribution(scores, params)
    cumulated = probabilities.cumsum(-1, dtype=torch.float64)
    targets = torch.tensor(uniforms, dtype=torch.float64, device=scores.device)[:, None] * cumulated[:, -1:]
    return torch.searchsorted(cumulated, targets, right=True)[:, 0].clamp_(max=scores.shape[-1] - 1)


def distribution(scores: torch.Tensor, params: Items[SamplingParams]) -> torch.Tensor:
    """Returns each row's probabilities after temperature, top-k, top-p and min-p, [rows, vocabulary]; their sum may be below 1."""

    def column(values: list[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=scores.dtype, device=scores.device)[:, None]

    scores = scores / column([p.temperature for p in params])
    if any(p.top_k > 0 for p in params):
        scores = scores.masked_fill(scores < _kth_best(scores, [p.top_k for p in params]), -torch.inf)
    probabilities = scores.softmax(-1)
    if any(p.top_p < 1 for p in params):
        probabilities = probabilities.masked_fill(probabilities < _nucleus_edge(probabilities, column([p.top_p for p in params])), 0)
    if any(p.min_p > 0 for p in params):
        edge = column([p.min_p for p in params]) * probabilities.amax(-1, keepdim=True)
        probabilities = probabilities.masked_fill(probabilities < edge, 0)
    return probabilities


def _kth_best(scores: torch.Tensor, ks: list[int]) -> torch.Tensor:
    """Returns each row's k-th best score, [rows, 1]; minus infinity where k is 0 (off)."""
    vocabulary = scores.shape[-1]
    wanted = [min(k, vocabulary) for k in ks]
    best = scores.topk(max(wanted), dim=-1).values
    index = torch.tensor([max(k - 1, 0) for k in wanted], device=scores.device)[:, None]
    off = torch.tensor([k <= 0 for k in ks], device=scores.device)[:, None]
    return best.gather(-1, index).masked_fill(off, -torch.inf)


def _nucleus_edge(probabilities: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Returns the smallest probability in each row's nucleus, [rows, 1]: the fewest tokens whose sum reaches ``top_p``."""
    vocabulary = probabilities.shape[-1]
    total = probabilities.sum(-1, keepdim=True)
    for size in (min(_NUCLEUS, vocabulary), vocabulary):
        best = probabilities.topk(size, dim=-1).values
        before = best.cumsum(-1) - best
        if size == vocabulary or bool((before[:, -1:] >= top_p * total).all()):
            break
    kept = before < top_p * total
    kept[:, 0] = True
    return best.masked_fill(~kept, torch.inf).amin(-1, keepdim=True)


def _adjusted(logits: torch.Tensor, rows: Items[RowState]) -> torch.Tensor:
    """Returns the scores after repetition, frequency and presence penalties and bias; the same tensor when no row asks for any."""
    penalised = [i for i, row in enumerate(rows) if row.penalised]
    biased = [i for i, row in enumerate(rows) if row.params.logit_bias]
    if not penalised and not biased:
        return logits
    scores = logits.clone()
    if penalised:
        scores[penalised] = _penalise(logits[penalised], [rows[i] for i in penalised])
    for i in biased:
        bias = rows[i].params.logit_bias
        ids = torch.tensor(list(bias), dtype=torch.long, device=scores.device)
        scores[i].index_add_(0, ids, torch.tensor(list(bias.values()), dtype=scores.dtype, device=scores.device))
    return scores


def _penalise(scores: torch.Tensor, rows: Items[RowState]) -> torch.Tensor:
    def column(values: list[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=scores.dtype, device=scores.device)[:, None]

    histories = [row.history(scores[0]) for row in rows]
    counts = torch.stack([history[0] for history in histories])
    seen = torch.stack([history[1] for history in histories])
    repetition = column([row.params.repetition_penalty for row in rows])
    scores = torch.where(seen, torch.where(scores > 0, scores / repetition, scores * repetition), scores)
    scores = scores - column([row.params.frequency_penalty for row in rows]) * counts
    return scores - column([row.params.presence_penalty for row in rows]) * (counts > 0)


def _with_logprobs(logits: torch.Tensor, rows: Items[RowState], chosen: list[int | None]) -> list[Sampled]:
    """Adds log probabilities of the model's own distribution, before penalties and temperature, for the rows that asked."""
    asked = [i for i, row in enumerate(rows) if row.params.logprobs is not None and chosen[i] is not None]
    sampled = [Sampled(token, failure=_failure(row) if token is None else None) for row, token in zip(rows, chosen, strict=True)]
    if not asked:
        return sampled
    logprobs = logits[asked].log_softmax(-1)
    best = logprobs.topk(max(1, *(rows[i].params.logprobs or 0 for i in asked)), dim=-1)
    for position, i in enumerate(asked):
        count = rows[i].params.logprobs or 0
        top = tuple(zip(best.indices[position, :count].tolist(), best.values[position, :count].tolist(), strict=True))
        sampled[i] = Sampled(chosen[i], float(logprobs[position, chosen[i]]), top)
    return sampled


def token_logprobs(logits: torch.Tensor, tokens: Items[int], top: int) -> list[TokenLogprob]:
    """Returns the log probability of each row's token, and the row's ``top`` best; ``logits`` is [rows, vocabulary]."""
    logprobs = logits.float().log_softmax(-1)
    own = logprobs.gather(-1, torch.tensor(tokens, device=logits.device)[:, None])[:, 0].tolist()
    best = logprobs.topk(min(top, logits.shape[-1]), dim=-1)
    tops = [tuple(zip(ids, values, strict=True)) for ids, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)]
    return [TokenLogprob(*row) for row in zip(tokens, own, tops, strict=True)]


def failure_of(row: RowState, sampled: "Sampled") -> RequestFailed:
    """Returns why a row that has no next token cannot go on."""
    broken = row.constraint is not None and row.constraint.failure is not None
    return (GrammarFailed if broken else RequestFailed)(sampled.failure)


def _failure(row: RowState) -> str:
    if row.constraint is not None and row.constraint.failure is not None:
        return row.constraint.failure
    return "the model's scores for this request are not numbers: its prompt or the weights overflow the dtype"
