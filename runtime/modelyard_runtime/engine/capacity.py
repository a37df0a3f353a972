"""How many sequences of which length the KV cache holds: what was asked for, or what the model and the memory allow."""

from dataclasses import dataclass

import torch

from modelyard_runtime.engine.blocks import BLOCK, blocks_for
from modelyard_runtime.engine.settings import EngineSettings
from modelyard_runtime.errors import OutOfMemory
from modelyard_runtime.hardware import available_memory
from modelyard_runtime.models.loading import LoadedModel

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
    """

    sequences: int
    length: int
    blocks: int
    slots: int
    bytes_per_token: int

    @property
    def total_bytes(self) -> int:
        """Bytes of a full cache."""
        return self.blocks * BLOCK * self.bytes_per_token

    def __str__(self) -> str:
        tokens = self.blocks * BLOCK
        return f"{self.sequences} sequences of up to {self.length} tokens, {tokens} in all, at most {self.total_bytes / 2**30:.2f} GiB"


def choose_capacity(model: LoadedModel, settings: EngineSettings, bytes_per_token: int) -> Capacity:
    """Returns the cache's size. Raises OutOfMemory when what was asked for, or the least that is useful, does not fit."""
    elastic = model.device.type == "cpu"
    return fit(model.context_length, settings, bytes_per_token, _memory(model.device), elastic=elastic)


def fit(context: int, settings: EngineSettings, bytes_per_token: int, memory: int, *, elastic: bool = True) -> Capacity:
    """Returns the largest useful cache for a model's context length within ``memory`` bytes. Raises OutOfMemory.

    Sequences share memory where it is ``elastic``: then one that is as long as may be must fit, and a few where the length may be chosen.
    Elsewhere each has its own.
    """
    asked = settings.max_concurrent_sequences
    exact = settings.max_model_length is not None and (asked is not None or settings.kv_cache_tokens is not None)
    affordable = int(memory * (_SHARE_MOST if exact else _SHARE_CHOSEN)) // bytes_per_token
    tokens = min(affordable, settings.kv_cache_tokens or affordable)
    lengths = _lengths(context, settings)
    for length in lengths:
        needed = length if settings.max_model_length or length == lengths[-1] else length * _FEWEST
        sequences = asked or (_SEQUENCES if elastic else min(_SEQUENCES, tokens // length))
        if tokens >= (needed if elastic else max(needed, length * (asked or 1))):
            blocks = min(tokens // BLOCK, sequences * blocks_for(length))
            return Capacity(sequences, min(length, blocks * BLOCK), blocks, 2 * sequences if elastic else sequences, bytes_per_token)
    least = lengths[-1] * (1 if elastic else asked or 1)
    raise OutOfMemory(
        f"the KV cache needs {least * bytes_per_token / 2**30:.2f} GiB for {least} tokens, "
        f"and {tokens * bytes_per_token / 2**30:.2f} GiB may be used for it"
    )


def _lengths(context: int, settings: EngineSettings) -> list[int]:
    if settings.max_model_length:
        return [min(settings.max_model_length, context)]
    return sorted({min(length, context) for length in _LENGTHS}, reverse=True)


def _memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return available_memory()
