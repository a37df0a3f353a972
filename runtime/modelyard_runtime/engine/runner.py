"""One forward pass over packed tokens."""

from dataclasses import dataclass

import torch
from torch import nn

from modelyard_runtime.engine.attention import AttentionStep, attending
from modelyard_runtime.engine.cache import KVCache
from modelyard_runtime.engine.layout import StepLayout
from modelyard_runtime.engine.scheduler import Work


@dataclass(slots=True)
class Runner:
    """A model whose attention is ours, and the cache that it works on."""

    model: nn.Module
    cache: KVCache
    device: torch.device

    def forward(self, work: list[Work]) -> torch.Tensor:
        """Computes a step's work, which is in packing order; returns the scores after each sequence that samples, [rows, vocabulary]."""
        tokens = [token for item in work for token in item.sequence.tokens[item.span.start : item.span.end]]
        ends, row = [], -1
        for item in work:
            row += item.span.length
            if item.samples:
                ends.append(row)
        return self._packed(tokens, StepLayout.of([item.span for item in work], self.device), ends)

    def _packed(self, tokens: list[int], layout: StepLayout, rows: list[int]) -> torch.Tensor:
        with attending(AttentionStep(self.cache, layout)):
            output = self.model(
                input_ids=torch.tensor([tokens], device=self.device),
                position_ids=layout.positions[None],
                use_cache=False,
                logits_to_keep=torch.tensor(rows, dtype=torch.long, device=self.device),
            )
        logits: torch.Tensor = output.logits
        return logits[0]
