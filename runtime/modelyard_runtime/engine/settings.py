"""Settings of the engine."""

from dataclasses import dataclass
from typing import Literal, TypedDict

KvCache = Literal["auto", "slots", "paged"]
CudaGraphs = Literal["auto", "off"]


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Bounds of the engine; what is None is chosen by the model and the memory available.

    ``max_model_length`` is prompt plus answer in tokens; ``kv_cache_tokens`` are those that the KV cache holds of all sequences together.
    ``prefill_tokens`` are prompt tokens read in one step, and ``prefill_tokens_beside_decodes`` those while other sequences stream: each
    adds to the time between their tokens, and to the time until a prompt that comes meanwhile is looked at. Where several prompts wait,
    each counts ``prefill_tokens`` in any case, all of them ``prefill_tokens_together`` at most. These are for CPU, where a step costs
    about as much as 30 rows in it: see `chunks`. ``speculative_tokens`` are guessed per sequence and step at most, 0 for none.
    ``step_timeout`` is in seconds: a step that takes longer is taken for a hang. ``kv_cache`` auto is slots on a processor and pages on a
    GPU; ``page_tokens`` is a multiple of 16. ``cuda_graphs`` are there with pages, on one GPU.
    """

    max_model_length: int | None = None
    max_concurrent_sequences: int | None = None
    kv_cache_tokens: int | None = None
    prefill_tokens: int = 128
    prefill_tokens_beside_decodes: int = 64
    prefill_tokens_together: int = 512
    prefix_caching: bool = True
    speculative_tokens: int = 0
    step_timeout: float = 120.0
    kv_cache: KvCache = "auto"
    page_tokens: int | None = None
    cuda_graphs: CudaGraphs = "auto"


class Chunks(TypedDict, total=False):
    """Fields of `EngineSettings` that depend on the device."""

    prefill_tokens: int
    prefill_tokens_beside_decodes: int
    prefill_tokens_together: int


def chunks(device: str) -> Chunks:
    """Returns the prompt tokens per step for a type of device."""
    if device == "cpu":
        return {}
    return {"prefill_tokens": 2048, "prefill_tokens_beside_decodes": 512, "prefill_tokens_together": 4096}
