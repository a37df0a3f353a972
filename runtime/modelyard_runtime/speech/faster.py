"""Whisper in CTranslate2's format, by faster-whisper. A window is read exactly as faster-whisper itself would read it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ctranslate2
from faster_whisper import WhisperModel

from modelyard_runtime.errors import ArgumentsInvalid, OutOfMemory, UnsupportedModel, WeightsNotFound
from modelyard_runtime.hardware import is_out_of_memory, usable_cores
from modelyard_runtime.speech.base import (
    COMPRESSION_LIMIT,
    LOGPROB_LIMIT,
    LONG_WINDOW_SECONDS,
    NO_SPEECH_LIMIT,
    Samples,
    Segment,
    Task,
    Word,
)
from modelyard_runtime.speech.converted import check_config

_REMEDY = "convert the model again, or fetch it again"


class FasterWhisper:
    """A folder with ``model.bin``, ``config.json``, ``tokenizer.json`` and ``vocabulary.*``."""

    batch = 1  # faster-whisper follows the model's own timestamps from phrase to phrase, which windows of a batch cannot
    longest = LONG_WINDOW_SECONDS  # for the same reason: it cuts where a phrase ends, which sound alone does not tell

    def __init__(self, folder: Path, *, device: str, dtype: str, beams: int):
        """Loads it. Raises ArgumentsInvalid, OutOfMemory, UnsupportedModel or WeightsNotFound."""
        if not (folder / "tokenizer.json").is_file():
            raise WeightsNotFound(f"{folder} has no tokenizer.json", "put the tokenizer.json of the same Whisper model beside model.bin")
        ctranslate2.set_log_level(logging.ERROR)  # a type that the device lacks is converted, which needs no warning at each start
        check_config(folder)
        self.device, _, index = device.partition(":")
        try:
            self._model = WhisperModel(
                str(folder),
                device=self.device,
                device_index=int(index or 0),
                compute_type="default" if dtype == "auto" else dtype,
                cpu_threads=usable_cores(),
                local_files_only=True,
            )
        except UnicodeDecodeError as error:
            raise UnsupportedModel(f"model.bin of {folder.name} cannot be read", _REMEDY) from error
        except ValueError as error:
            raise ArgumentsInvalid(f"CTranslate2 cannot serve {folder.name} so: {error}", "check --device and --dtype") from error
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise OutOfMemory(f"the weights of {folder.name} do not fit the memory of {device}") from error
            cause = f"{folder.name} cannot be loaded by CTranslate2: {error}"
            raise UnsupportedModel(cause, _REMEDY) from error
        self._beams = beams
        self.languages = tuple(self._model.supported_languages)

    def shown(self) -> dict[str, Any]:
        """Returns what the model's status says of how it is computed."""
        model = self._model.model
        return {"name": "faster-whisper", "device": model.device, "dtype": model.compute_type}

    def count_tokens(self, text: str) -> int:
        """Returns the length of a text in tokens."""
        return len(self._model.hf_tokenizer.encode(text, add_special_tokens=False).ids)

    def detect_language(self, samples: Samples) -> str:
        """Returns the code of the language spoken."""
        language, _, _ = self._model.detect_language(samples)
        return str(language)

    def transcribe(self, windows: Sequence[Samples], task: Task) -> list[list[Segment]]:
        """Returns the segments of each window, read one after the other."""
        return [self._read(samples, task) for samples in windows]

    def _read(self, samples: Samples, task: Task) -> list[Segment]:
        segments, _ = self._model.transcribe(
            samples,
            language=task.language,
            task="translate" if task.translate else "transcribe",
            beam_size=self._beams,
            temperature=list(task.temperatures),
            compression_ratio_threshold=COMPRESSION_LIMIT,
            log_prob_threshold=LOGPROB_LIMIT,
            no_speech_threshold=NO_SPEECH_LIMIT,
            initial_prompt=task.prompt or None,
            word_timestamps=task.words,
        )
        return [_segment(segment) for segment in segments]


def _segment(segment: Any) -> Segment:
    return Segment(
        start=segment.start,
        end=segment.end,
        text=segment.text,
        tokens=tuple(segment.tokens),
        temperature=segment.temperature,
        avg_logprob=segment.avg_logprob,
        compression_ratio=segment.compression_ratio,
        no_speech_prob=segment.no_speech_prob,
        words=tuple(Word(float(word.start), float(word.end), word.word, float(word.probability)) for word in segment.words or ()),
    )
