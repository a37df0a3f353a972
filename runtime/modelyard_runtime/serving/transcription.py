"""The family of speech to text: its models are loaded by what the folder holds, once the packages of the extra are there."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from modelyard_runtime.errors import UnsupportedModel
from modelyard_runtime.progress import Report
from modelyard_runtime.serving.families import Context
from modelyard_runtime.settings import ServeSettings
from modelyard_runtime.speech.threads import bind_ctranslate2

if TYPE_CHECKING:
    from modelyard_runtime.serving.hearing import TranscriptionService
    from modelyard_runtime.speech.base import SpeechModel

_NEEDED = ("av", "faster_whisper", "ctranslate2", "onnxruntime")
_CONCURRENCY = 4


def load(folder: Path, settings: ServeSettings, capabilities: tuple[str, ...], report: Report) -> SpeechModel:
    """Loads Whisper, by CTranslate2 where the folder holds its format. Raises RuntimeFailed."""
    del capabilities, report
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise UnsupportedModel(
            f"speech to text needs packages that are not installed: {', '.join(missing)}",
            "pip install 'modelyard[audio]', or use an image that was built with EXTRAS=audio",
        )
    bind_ctranslate2()
    from modelyard_runtime.models.loading import choose_device, choose_dtype  # noqa: PLC0415 - imports PyTorch

    device = choose_device(settings.device)
    if (folder / "model.bin").is_file():
        from modelyard_runtime.speech.faster import FasterWhisper  # noqa: PLC0415 - an extra's

        return FasterWhisper(folder, device=str(device), dtype=settings.dtype, beams=settings.beam_size)
    from modelyard_runtime.speech.whisper import TransformersWhisper  # noqa: PLC0415 - an extra's

    return TransformersWhisper(folder, device=device, dtype=choose_dtype(settings.dtype, device), beams=settings.beam_size)


def serve(model: SpeechModel, context: Context) -> TranscriptionService:
    """Makes the model's service."""
    from modelyard_runtime.serving.hearing import TranscriptionService  # noqa: PLC0415 - an extra's

    return TranscriptionService(model, context.limiter(max(_CONCURRENCY, model.batch)), settings=context.settings, metrics=context.metrics)
