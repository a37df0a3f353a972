"""Transcripts in OpenAI's formats: subtitles (SubRip and WebVTT) and objects."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from modelyard_runtime.speech.base import Segment

_FRAMES_PER_SECOND = 100


def text_of(segments: Sequence[Segment]) -> str:
    """Returns the transcript as text."""
    return "".join(segment.text for segment in segments).strip()


def srt(segments: Sequence[Segment]) -> str:
    """Returns SubRip subtitles."""
    return "".join(
        f"{number}\n{_clock(one.start, ',')} --> {_clock(one.end, ',')}\n{_cue(one)}\n\n" for number, one in enumerate(segments, 1)
    )


def vtt(segments: Sequence[Segment]) -> str:
    """Returns WebVTT subtitles (https://www.w3.org/TR/webvtt1/)."""
    return "WEBVTT\n\n" + "".join(f"{_clock(one.start, '.')} --> {_clock(one.end, '.')}\n{_cue(one)}\n\n" for one in segments)


def segment_object(number: int, segment: Segment) -> dict[str, Any]:
    """Returns a segment as `verbose_json` has it."""
    return {
        "id": number,
        "seek": int(segment.start * _FRAMES_PER_SECOND),
        "start": round(segment.start, 3),
        "end": round(segment.end, 3),
        "text": segment.text,
        "tokens": list(segment.tokens),
        "temperature": segment.temperature,
        "avg_logprob": _finite(segment.avg_logprob),
        "compression_ratio": segment.compression_ratio,
        "no_speech_prob": _finite(segment.no_speech_prob or 0.0),
    }


def word_objects(segments: Sequence[Segment]) -> list[dict[str, Any]]:
    """Returns the words as `verbose_json` has them."""
    return [
        {"word": word.text.strip(), "start": round(word.start, 3), "end": round(word.end, 3)}
        for segment in segments
        for word in segment.words
        if word.text.strip()
    ]


def _cue(segment: Segment) -> str:
    """Returns a subtitle's text: an arrow or an empty line would end it."""
    return " ".join(segment.text.split()).replace("-->", "->")


def _clock(seconds: float, separator: str) -> str:
    milliseconds = round(max(seconds, 0.0) * 1000)
    return (
        f"{milliseconds // 3_600_000:02}:{milliseconds // 60_000 % 60:02}:{milliseconds // 1000 % 60:02}{separator}{milliseconds % 1000:03}"
    )


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 0.0
