"""The forward pass of steps in which some prompts have images: feature rows go in as embeddings, positions have three dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from modelyard_runtime.engine.scheduler import Work


def has_media(work: Sequence[Work]) -> bool:
    """Whether a step touches a sequence with images: behind them, positions go on from where theirs end."""
    return any(item.sequence.request.media is not None for item in work)


def forward(model: Any, tokens: torch.Tensor, work: Sequence[Work], rows: torch.Tensor) -> torch.Tensor:
    """Returns the scores [rows, vocabulary] of packed ``tokens`` [1, T], as Qwen's vision-language models compute them."""
    body = model.model.language_model
    embeddings = body.embed_tokens(tokens)
    placed, features, deepstack = _features(work)
    index = torch.tensor(placed, dtype=torch.long, device=tokens.device)
    more: dict[str, Any] = {}
    if placed:
        embeddings[0, index] = torch.cat(features).to(embeddings)
        if deepstack:
            mask = torch.zeros_like(tokens, dtype=torch.bool)
            mask[0, index] = True
            more = {"visual_pos_masks": mask, "deepstack_visual_embeds": [torch.cat(layer) for layer in deepstack]}
    positions = torch.cat([_positions(item) for item in work], dim=1)[:, None].to(tokens.device)
    hidden = body(inputs_embeds=embeddings, position_ids=positions, use_cache=False, **more).last_hidden_state
    logits: torch.Tensor = model.lm_head(hidden[0, rows])
    return logits


def _positions(item: Work) -> torch.Tensor:
    media = item.sequence.request.media
    if media is None:
        return torch.arange(item.span.start, item.span.end).expand(3, -1)
    positions: torch.Tensor = media.positions_of(item.span.start, item.span.end)
    return positions


def _features(work: Sequence[Work]) -> tuple[list[int], list[torch.Tensor], list[list[torch.Tensor]]]:
    """Returns the packed rows that are image patches, their features, and by layer what is added to them."""
    placed: list[int] = []
    features: list[torch.Tensor] = []
    deepstack: list[list[torch.Tensor]] = []
    row = 0
    for item in work:
        media = item.sequence.request.media
        if media is not None:
            part = media.within(item.span.start, item.span.end)
            if part.start < part.stop:
                placed += (media.rows[part] - item.span.start + row).tolist()
                features.append(media.features[part])
                deepstack = deepstack or [[] for _ in media.deepstack]
                for layer, added in zip(deepstack, media.deepstack, strict=True):
                    layer.append(added[part])
        row += item.span.length
    return placed, features, deepstack
