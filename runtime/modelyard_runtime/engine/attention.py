"""The attention function that Transformers' models call in place of their own.

Transformers passes each layer's queries, keys and values after rotary embedding to a function registered by name. Ours stores keys and
values in the engine's cache and attends over it. What a step computes reaches it by a context variable: not every family hands keyword
arguments down to its layers.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AttentionInterface

from modelyard_runtime.engine.layout import StepLayout
from modelyard_runtime.engine.scores import AttentionRule
from modelyard_runtime.engine.storage import Cache

#: The name under which models find the function.
NAME = "modelyard"


@dataclass(slots=True)
class AttentionStep:
    """One forward pass: its cache, its layout, and the layers that attended."""

    cache: Cache
    layout: StepLayout
    layers: list[int] = field(default_factory=list)


_CURRENT: ContextVar[AttentionStep] = ContextVar("modelyard_attention_step")


@contextmanager
def attending(step: AttentionStep) -> Iterator[None]:
    """Makes ``step`` the one that attention works on within the block, in this thread."""
    token = _CURRENT.set(step)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def attention(  # noqa: PLR0917 - Transformers' signature
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Stores and attends for one layer, with the signature that Transformers calls.

    Shapes: query [1, heads, T, dim], key and value [1, kv_heads, T, dim]; returns [1, T, heads, dim]. Causality, window, cap and sinks
    are applied here: the models make no mask for a name that their mask interface does not know.
    """
    step = _CURRENT.get()
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    step.layers.append(layer)
    step.cache.write(layer, key, value, step.layout)
    rule = AttentionRule(scaling, sliding_window, softcap, s_aux)
    return step.cache.attend(layer, query, step.layout, rule), None


AttentionInterface.register(NAME, attention)
