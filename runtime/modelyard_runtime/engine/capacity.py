"""How many sequences of which length the KV cache holds: what was asked for, or what the model and the memory allow."""

from dataclasses import dataclass

import torch

from modelyard_runtime.engine.blocks import BLOCK
from modelyard_runtime.engine.settings import EngineSettings
from modelyard_runtime.errors import OutOfMemory
from modelyard_runtime.hardware import available_memory
from modelyard_runtime.models.loading import LoadedModel
from modelyard_runtime.models.placement import cache_memory, is_spread, layer_devices

#: Without settings: sequences at once, and the lengths to try, longest first, until `_FEWEST` sequences fit.
_SEQUENCES = 32
_FEWEST = 4
_LENGTHS = (8192, 4096, 2048, 1024, 512, 256)
#: Share of the memory available that the cache takes when it may choose, and at most.
_SHARE_CHOSEN = 0.4
_SHARE_MOST = 0.9


@dataclass(frozen=True, slots=True)
class Capacity:
    """``sequences`` at once of at most ``length`` tokens each, all together in ``blocks`` of memory, at ``bytes_per_token``.

    ``slots`` are the addresses: more than sequences where addresses cost nothing, so that prefixes of sequences that ended stay.
    ``page`` are the tokens of a page where memory is in pages, for the blocks to be a whole number of them.
    """

    sequences: int
    length: int
    blocks: int
    slots: int
    bytes_per_token: int
    page: int | None = None

    @property
    def total_bytes(self) -> int:
        """Bytes of a full cache."""
        return self.blocks * BLOCK * self.bytes_per_token

    def __str__(self) -> str:
        tokens = self.blocks * BLOCK
        return f"{self.sequences} sequences of up to {self.length} tokens, {tokens} in all, at most {self.total_bytes / 2**30:.2f} GiB"


def choose_capacity(model: LoadedModel, settings: EngineSettings, bytes_per_token: int, page: int | None = None) -> Capacity:
    """Returns the cache's size. Raises OutOfMemory when what was asked for, or the least that is useful, does not fit."""
    elastic = model.device.type == "cpu"
    return fit(model.context_length, settings, bytes_per_token, _memory(model), elastic=elastic, page=page)


def fit(
    context: int, settings: EngineSettings, bytes_per_token: int, memory: int, *, elastic: bool = True, page: int | None = None
) -> Capacity:
    """Returns the largest useful cache for a model's context length within ``memory`` bytes. Raises OutOfMemory.

    Sequences share memory where it is ``elastic`` or in pages: then one that is as long as may be must fit, and a few where the length may
    be chosen. Elsewhere each has its own.
    """
    asked = settings.max_concurrent_sequences
    exact = settings.max_model_length is not None and (asked is not None or settings.kv_cache_tokens is not None)
    affordable = int(memory * (_SHARE_MOST if exact else _SHARE_CHOSEN)) // bytes_per_token
    piece, shared = page or 1, elastic or page is not None
    tokens = min(affordable, _up(settings.kv_cache_tokens or affordable, piece)) // piece * piece
    lengths = _lengths(context, settings)
    for length in lengths:
        needed = length if settings.max_model_length or length == lengths[-1] else length * _FEWEST
        sequences = asked or (_SEQUENCES if shared else min(_SEQUENCES, tokens // length))
        if tokens >= (needed if shared else max(needed, length * (asked or 1))):
            blocks = min(tokens, sequences * _up(length, page or BLOCK)) // BLOCK
            slots = 2 * sequences if elastic and page is None else sequences
            return Capacity(sequences, min(length, blocks * BLOCK), blocks, slots, bytes_per_token, page)
    least = lengths[-1] * (1 if shared else asked or 1)
    raise OutOfMemory(
        f"the KV cache needs {least * bytes_per_token / 2**30:.2f} GiB for {least} tokens, "
        f"and {tokens * bytes_per_token / 2**30:.2f} GiB may be used for it"
    )


def _up(tokens: int, piece: int) -> int:
    """Returns the tokens of the whole pieces that hold so many."""
    return -(-tokens // piece) * piece


def _lengths(context: int, settings: EngineSettings) -> list[int]:
    if settings.max_model_length:
        return [min(settings.max_model_length, context)]
    return sorted({min(length, context) for length in _LENGTHS}, reverse=True)


def _memory(model: LoadedModel) -> int:
    if model.device.type != "cuda":
        return available_memory()
    if not is_spread(model.model):
        return torch.cuda.mem_get_info(model.device)[0]
    layers = layer_devices(model.model)
    return cache_memory(layers, {device: torch.cuda.mem_get_info(device)[0] for device in layers})
