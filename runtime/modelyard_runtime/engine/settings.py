"""Settings of the engine."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Bounds of the engine; what is None is chosen by the model and the memory available.

    ``max_model_length`` is prompt plus answer in tokens; ``prefill_tokens`` are prompt tokens read in one step, and
    ``prefill_tokens_beside_decodes`` those while other sequences stream: each adds to the time between their tokens.
    """

    max_model_length: int | None = None
    max_concurrent_sequences: int | None = None
    prefill_tokens: int = 256
    prefill_tokens_beside_decodes: int = 128
