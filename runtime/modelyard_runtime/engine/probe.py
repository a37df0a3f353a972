"""Making a model's attention ours, and proving that it works before the first request does.

A model may ignore the attention interface, keep state that is not in the KV cache, or mask in a way of its own, and still answer
fluently. So its scores are compared with its own attention's, over a prompt read in two parts and a decode row beside another prompt.
"""

import torch
from torch.nn.functional import cosine_similarity

from modelyard_runtime.engine.attention import NAME, AttentionStep, attending
from modelyard_runtime.engine.layout import Span, StepLayout
from modelyard_runtime.engine.storage import Cache, small
from modelyard_runtime.errors import UnsupportedModel
from modelyard_runtime.models.loading import LoadedModel
from modelyard_runtime.models.quantising import is_quantised

_REMEDY = "choose a decoder whose layers are all full or sliding-window attention: Llama, Qwen 2/3, Mistral, Gemma, Phi 3, GPT-OSS"
_LAYER_TYPES = {"full_attention", "sliding_attention"}
_LENGTH = 6
#: Least cosine of the scores of layers in fewer bits.
_ALIKE = 0.99


@torch.inference_mode()
def adopt(loaded: LoadedModel, page: int | None = None) -> int:
    """Gives the model our attention over slots, or pages of so many tokens; returns the bytes that one token takes in the KV cache.

    Raises UnsupportedModel.
    """
    config = loaded.config.get_text_config()
    foreign = set(getattr(config, "layer_types", None) or ()) - _LAYER_TYPES
    if foreign or getattr(config, "attention_chunk_size", None):
        raise UnsupportedModel(
            f"{_kind(loaded)} has layers that are not plain attention: {sorted(foreign) or 'chunked attention'}", _REMEDY
        )
    tokens = [(7 * i + 3) % loaded.vocabulary_size for i in range(_LENGTH)]
    try:
        _use(loaded, "eager")
        expected = _reference(loaded, tokens)
        _use(loaded, NAME)
        cache = small(2, _LENGTH, page)
        got, layers = _ours(loaded, tokens, cache)
    except (TypeError, ValueError, KeyError, AttributeError, IndexError, RuntimeError) as error:
        raise UnsupportedModel(f"{_kind(loaded)} cannot be run by this engine: {type(error).__name__}: {error}", _REMEDY) from error
    _check(loaded, expected, got, layers)
    return cache.bytes_per_token


def _use(loaded: LoadedModel, attention: str) -> None:
    """Gives the decoder an attention; the tower of a vision-language model keeps the library's own."""
    tower = hasattr(loaded.config, "vision_config")
    loaded.model.set_attn_implementation({"text_config": attention, "vision_config": "sdpa"} if tower else attention)


def _reference(loaded: LoadedModel, tokens: list[int]) -> torch.Tensor:
    ids = torch.tensor([tokens], device=loaded.device)
    logits: torch.Tensor = loaded.model(input_ids=ids, use_cache=False).logits
    return logits[0, -1].float()


def _ours(loaded: LoadedModel, tokens: list[int], cache: Cache) -> tuple[torch.Tensor, list[int]]:
    """Reads all but one token, then decodes that one beside another prompt; returns the last scores and the layers that attended."""
    split = _LENGTH // 2
    steps = [
        ([Span(0, 0, split)], tokens[:split]),
        ([Span(0, split, _LENGTH - 1)], tokens[split:-1]),
        ([Span(0, _LENGTH - 1, _LENGTH), Span(1, 0, split)], [tokens[-1], *tokens[:split]]),
    ]
    for spans, ids in steps:
        step = AttentionStep(cache, StepLayout.of(spans, loaded.device))
        with attending(step):
            packed = torch.tensor([ids], device=loaded.device)
            logits = loaded.model(input_ids=packed, position_ids=step.layout.positions[None], use_cache=False).logits
    return logits[0, 0].float(), step.layers


def _check(loaded: LoadedModel, expected: torch.Tensor, got: torch.Tensor, layers: list[int]) -> None:
    wanted = list(range(getattr(loaded.config.get_text_config(), "num_hidden_layers", 0)))
    if not layers or layers != wanted:
        raise UnsupportedModel(f"{_kind(loaded)}: {len(layers)} of {len(wanted)} layers use the attention interface", _REMEDY)
    if not _agree(loaded, expected, got):
        error = float((expected - got).abs().max())
        raise UnsupportedModel(f"{_kind(loaded)}: scores differ from the model's own attention by {error:.2g}", _REMEDY)


def _agree(loaded: LoadedModel, expected: torch.Tensor, got: torch.Tensor) -> bool:
    """Whether the scores are the same, but for what rounding may do to them.

    Layers in fewer bits round what they are given: the last bit of a number may decide to which side, and so on from layer to layer. Of
    their scores the direction is compared (measured, SmolLM2 in int8: single scores 5 % off, a cosine of 0.9998).
    """
    if is_quantised(loaded.model):
        return float(cosine_similarity(expected, got, dim=0)) >= _ALIKE
    tolerance = (1e-3 if loaded.dtype == torch.float32 else 5e-2) * float(expected.abs().max().clamp(min=1))
    return float((expected - got).abs().max()) <= tolerance


def _kind(loaded: LoadedModel) -> str:
    return f"{type(loaded.model).__name__} ({loaded.config.model_type})"
