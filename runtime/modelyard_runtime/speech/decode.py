"""Audio files to samples: told by their content, decoded in a stream, bounded in seconds of audio, memory and time.

FFmpeg (by PyAV, whose wheels bring it) is given the one demuxer that the content asks for and the few codecs of the formats that are
served, so that no exotic parser sees a stranger's bytes.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import av
import numpy as np
from modelyard.api.errors import InvalidRequest
from numpy.typing import NDArray

from modelyard_runtime.speech.base import SAMPLE_RATE, Recording

_PARAM = "file"
FORMATS = "flac, m4a, mp3, mp4, ogg, wav or webm"
_CODECS = (
    "aac,alac,flac,mp3,mp3float,opus,libopus,vorbis,libvorbis,"
    "pcm_u8,pcm_s16le,pcm_s16be,pcm_s24le,pcm_s32le,pcm_f32le,pcm_f64le,pcm_alaw,pcm_mulaw"
)
_RATES = range(4_000, 768_001)
# Formats whose heads say how long they are; what is missing of that was cut off. The rest may be a rounded last frame.
_DECLARES = frozenset({"flac", "mov", "matroska"})
_MISSING_SHARE, _MISSING_SECONDS = 0.02, 0.5
# Writers that could not go back to a WAV's head leave the largest sizes in it.
_UNKNOWN_SIZE = 0x7FFF_0000
Check = Callable[[], None]


def container_of(data: bytes) -> str:
    """Returns FFmpeg's name for the container that a file's first bytes show. Raises InvalidRequest."""
    head = data[:16]
    if head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE":
        return "wav"
    if head[4:8] == b"ftyp":
        return "mov"
    for magic, name in ((b"fLaC", "flac"), (b"OggS", "ogg"), (b"\x1a\x45\xdf\xa3", "matroska"), (b"ID3", "mp3")):
        if head.startswith(magic):
            return name
    # A frame of MPEG-1, 2 or 2.5, layer III: eleven ones, a version that is not reserved, and the layer.
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2 and head[1] & 0x18 != 0x08:
        return "mp3"
    raise _invalid(f"it is in none of the supported formats. Send {FORMATS}" if data else f"it is empty. Send {FORMATS}")


def decode(data: bytes, *, max_seconds: float, check: Check) -> Recording:
    """Returns a file's sound at 16 kHz, mixed to one channel.

    ``check`` is called between frames and raises when the work is not wanted any more. Raises InvalidRequest on what is damaged, cut off,
    without sound, or longer than ``max_seconds``.
    """
    container = container_of(data)
    if container == "wav":
        _check_whole(data)
    try:
        with av.open(
            _Source(data, check), "r", format=container, options={"codec_whitelist": _CODECS}, metadata_errors="ignore", buffer_size=65_536
        ) as opened:
            if not opened.streams.audio:
                raise _invalid("it holds no sound. Send a file with an audio track")
            stream = opened.streams.audio[0]
            declared = _declared(opened, stream, container)
            if declared > max_seconds:
                raise _too_long(max_seconds)
            recording = _gather(_resampled(opened.decode(stream), check), max_seconds)
    except av.error.FFmpegError as error:
        raise _invalid(f"it is damaged, or in a codec that is not supported ({error.strerror}). Send {FORMATS}") from error
    seconds = len(recording) / SAMPLE_RATE
    if not seconds:
        raise _invalid("it holds no sound. Send a file with an audio track")
    if declared - seconds > _MISSING_SECONDS + _MISSING_SHARE * declared:
        raise _invalid(f"it is cut off: its head promises {declared:.1f} s of sound, and {seconds:.1f} s are there. Send the whole file")
    return recording


class _Source(io.BytesIO):
    """A file in memory whose reading can be called off, as an endless search through a damaged one must be."""

    def __init__(self, data: bytes, check: Check):
        super().__init__(data)
        self._check = check

    def read(self, size: int | None = -1, /) -> bytes:
        self._check()
        return super().read(size)


def _check_whole(data: bytes) -> None:
    """Raises InvalidRequest when a WAV file is shorter than its head says; FFmpeg would read what there is."""
    size = int.from_bytes(data[4:8], "little")
    if size < _UNKNOWN_SIZE and size + 8 > len(data) * (1 + _MISSING_SHARE):
        raise _invalid(f"it is cut off: its head promises {size + 8} bytes, and {len(data)} are there. Send the whole file")


def _declared(opened: Any, stream: Any, container: str) -> float:
    """Returns how long the file says that it is, in seconds; 0 where it does not say, or where that is a guess."""
    if container not in _DECLARES:
        return 0.0
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return 0.0 if opened.duration is None else float(opened.duration / av.time_base)


def _resampled(frames: Iterator[Any], check: Check) -> Iterator[NDArray[np.int16]]:
    resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
    for frame in chain(frames, [None]):
        check()
        if frame is not None:
            if frame.sample_rate not in _RATES:
                raise _invalid(f"its sample rate of {frame.sample_rate} Hz is outside {_RATES.start} to {_RATES.stop - 1}")
            frame.pts = None  # gaps and jumps of a damaged clock are not sound
        try:
            pieces = resampler.resample(frame)
        except ValueError as error:
            raise _invalid("its sample format changes on the way. Convert it to one format") from error
        for piece in pieces:
            yield piece.to_ndarray()[0]


def _gather(pieces: Iterator[NDArray[np.int16]], max_seconds: float) -> Recording:
    """Returns the pieces as one array; a second of it costs 32 KB while they come, and as much again for a moment at the end."""
    limit = int(max_seconds * SAMPLE_RATE)
    gathered: list[NDArray[np.int16]] = []
    size = 0
    for piece in pieces:
        size += len(piece)
        if size > limit:
            raise _too_long(max_seconds)
        gathered.append(piece)
    return np.concatenate(gathered) if gathered else np.zeros(0, np.int16)


def _too_long(max_seconds: float) -> InvalidRequest:
    message = f"The audio is longer than {max_seconds:g} s, which is the limit. Split it, or raise --max-audio-seconds."
    return InvalidRequest(message, param=_PARAM, code="audio_too_long")


def _invalid(why: str) -> InvalidRequest:
    return InvalidRequest(f"The audio file cannot be read: {why}.", param=_PARAM, code="invalid_audio")
