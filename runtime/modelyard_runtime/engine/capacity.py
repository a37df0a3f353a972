"""How many sequences of which length the KV cache holds: what was asked for, or what the model and the memory allow."""

from dataclasses import dataclass

import torch

from modelyard_runtime.engine.settings import EngineSettings
from modelyard_runtime.errors import OutOfMemory
from modelyard_runtime.hardware import available_memory
from modelyard_runtime.models.loading import LoadedModel

#: Without settings: sequences at once, and the lengths to try, longest first, until `_FEWEST` sequences fit.
_SEQUENCES = 16
_FEWEST = 4
_LENGTHS = (8192, 4096, 2048, 1024, 512, 256)
#: Share of the memory available that the cache takes when it may choose, and at most.
_SHARE_CHOSEN = 0.4
_SHARE_MOST = 0.9


@dataclass(frozen=True, slots=True)
class Capacity:
    """``sequences`` at once of at most ``length`` tokens each, at ``bytes_per_token``."""

    sequences: int
    length: int
    bytes_per_token: int

    @property
    def total_bytes(self) -> int:
        """Bytes of a full cache."""
        return self.sequences * self.length * self.bytes_per_token

    def __str__(self) -> str:
        return f"{self.sequences} sequences of up to {self.length} tokens, at most {self.total_bytes / 2**30:.2f} GiB"


def choose_capacity(model: LoadedModel, settings: EngineSettings, bytes_per_token: int) -> Capacity:
    """Returns the cache's size. Raises OutOfMemory when what was asked for, or the least that is useful, does not fit."""
    memory = _memory(model.device)
    return fit(model.context_length, settings, bytes_per_token, memory)


def fit(context: int, settings: EngineSettings, bytes_per_token: int, memory: int) -> Capacity:
    """Returns the largest useful cache for a model's context length within ``memory`` bytes. Raises OutOfMemory."""
    asked_length, asked_sequences = settings.max_model_length, settings.max_concurrent_sequences
    lengths = [min(asked_length, context)] if asked_length else sorted({min(length, context) for length in _LENGTHS}, reverse=True)
    budget = int(memory * (_SHARE_MOST if asked_length and asked_sequences else _SHARE_CHOSEN))
    for length in lengths:
        affordable = budget // (length * bytes_per_token)
        enough = asked_sequences or (1 if length == lengths[-1] else _FEWEST)
        if affordable >= enough:
            return Capacity(asked_sequences or min(affordable, _SEQUENCES), length, bytes_per_token)
    least = Capacity(asked_sequences or 1, lengths[-1], bytes_per_token)
    raise OutOfMemory(f"the KV cache needs {least.total_bytes / 2**30:.2f} GiB ({least}), and {budget / 2**30:.2f} GiB may be used for it")


def _memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return available_memory()
