"""One forward pass over packed tokens."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn

from modelyard_runtime.engine import multimodal
from modelyard_runtime.engine.attention import AttentionStep, attending
from modelyard_runtime.engine.graphs import Graphs
from modelyard_runtime.engine.layout import StepLayout
from modelyard_runtime.engine.lora import Rows, adapting
from modelyard_runtime.engine.scheduler import Work
from modelyard_runtime.engine.storage import Cache


@dataclass(frozen=True, slots=True)
class Scores:
    """What a forward pass says: ``logits`` [rows, vocabulary], of the rows that matter.

    For each work, in order: ``prompt`` are the rows after which a token of its prompt is to be scored, ``next`` those that tell its next
    tokens (one, and one more for each draft; none while its prompt is read), and ``spoiled`` whether keys or values were not numbers.
    """

    logits: torch.Tensor
    prompt: list[range]
    next: list[range]
    spoiled: list[bool]


@dataclass(slots=True)
class Runner:
    """A model whose attention is ours, and the cache that it works on."""

    model: nn.Module
    cache: Cache
    device: torch.device
    graphs: Graphs | None = None

    def forward(self, work: list[Work]) -> Scores:
        """Computes a step's work, which is in packing order."""
        if self.graphs is not None and self.graphs.serves(work):
            logits, spoiled = self.graphs.forward(work)
            return Scores(logits, [range(0)] * len(work), [range(row, row + 1) for row in range(len(work))], spoiled)
        layout = StepLayout.of([item.span for item in work], self.device)
        rows: list[int] = []
        starts, prompt, following = [0], [], []
        for item in work:
            scored, sampled = scored_positions(item), sampled_positions(item)
            prompt.append(range(len(rows), len(rows) + len(scored)))
            following.append(range(len(rows) + len(scored), len(rows) + len(scored) + len(sampled)))
            rows += [starts[-1] + position - item.span.start for position in (*scored, *sampled)]
            starts.append(starts[-1] + item.span.length)
        logits = self._packed(work, layout, rows)
        bad = layout.spoiled()
        return Scores(logits, prompt, following, [any(bad[start:end]) for start, end in pairwise(starts)])

    def _packed(self, work: list[Work], layout: StepLayout, rows: list[int]) -> torch.Tensor:
        tokens = torch.tensor([[token for item in work for token in item.tokens]], device=self.device)
        kept = torch.tensor(rows, dtype=torch.long, device=self.device)
        with attending(AttentionStep(self.cache, layout)), adapting(adapted_rows(work)):
            if multimodal.has_media(work):
                return multimodal.forward(self.model, tokens, work, kept)
            output = self.model(input_ids=tokens, position_ids=layout.positions[None], use_cache=False, logits_to_keep=kept)
        logits: torch.Tensor = output.logits
        return logits[0]


def adapted_rows(work: list[Work]) -> list[Rows]:
    """Returns the packed rows that use adapters; those of neighbours with the same one are joined."""
    found: list[Rows] = []
    row = 0
    for item in work:
        adapter, start, row = item.sequence.adapter, row, row + item.span.length
        if adapter is None:
            continue
        if found and found[-1].adapter is adapter and found[-1].end == start:
            start = found.pop().start
        found.append(Rows(adapter, start, row))
    return found


def scored_positions(item: Work) -> range:
    """Returns the positions whose scores rate the prompt token behind them."""
    if not item.sequence.scores_prompt:
        return range(0)
    return range(item.span.start, min(item.known, item.sequence.prompt_length - 1))


def sampled_positions(item: Work) -> range:
    """Returns the positions whose scores tell the next tokens."""
    return range(item.known - 1, item.span.end) if item.samples else range(0)
