import struct

import numpy as np
import pytest
from modelyard.api.errors import InvalidRequest
from modelyard_runtime.speech.base import SAMPLE_RATE
from modelyard_runtime.speech.decode import decode
from modelyard_runtime.speech.listening import NotWanted, Patience

NAMES = ("wav", "flac", "mp3", "ogg", "m4a", "webm")


def read(data, max_seconds=60.0):
    return decode(data, max_seconds=max_seconds, check=lambda: None)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("rate", "layout"), [(48_000, "stereo"), (16_000, "mono")])
def test_every_format_becomes_16_khz_mono(encoded, name, rate, layout):
    recording = read(encoded(name, 1.5, rate=rate, layout=layout))
    assert recording.dtype == np.int16
    assert abs(len(recording) / SAMPLE_RATE - 1.5) < 0.15  # lossy codecs pad their frames
    spectrum = np.abs(np.fft.rfft(recording[4000:20_000].astype(float)))
    assert abs(np.argmax(spectrum) * SAMPLE_RATE / 16_000 - 440) < 3


def test_a_wav_of_a_writer_that_could_not_go_back_is_read(encoded):
    data = bytearray(encoded("wav", 1.0))
    data[4:8] = b"\xff\xff\xff\xff"
    at = data.index(b"data") + 4
    data[at : at + 4] = b"\xff\xff\xff\xff"
    assert abs(len(read(bytes(data))) - SAMPLE_RATE) < 100


def wav(*, rate=16_000, channels=1, bits=16, samples=8_000, tag=1, declared=None):
    body = bytes(samples * channels * bits // 8)
    size = len(body) if declared is None else declared
    align = channels * bits // 8
    form = struct.pack("<HHIIHH", tag, channels, rate, rate * align % 2**32, align % 65_536, bits)
    return b"RIFF" + struct.pack("<I", 36 + size) + b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", size) + body


def damaged(data: bytes) -> bytes:
    """Returns a file whose middle is noise."""
    third = len(data) // 3
    return data[:third] + np.random.default_rng(1).bytes(third) + data[2 * third :]


HOSTILE = {
    "nothing": lambda _: b"",
    "text": lambda _: b"hello, I am no sound" * 100,
    "an image": lambda _: b"\x89PNG\r\n\x1a\n" + bytes(1000),
    "a playlist that names another file": lambda _: b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
    "a script of ffmpeg's": lambda _: b"ffconcat version 1.0\nfile /etc/passwd\n",
    "zeros": lambda _: bytes(100_000),
    "RIFF of something else": lambda _: b"RIFF\x10\0\0\0AVI LIST" + bytes(100),
    "a WAV head alone": lambda _: wav(samples=0),
    "a WAV cut in its head": lambda _: wav()[:30],
    "a WAV that promises more than there is": lambda _: wav(declared=1_000_000),
    "a WAV of one sample a second": lambda _: wav(rate=1),
    "a WAV of four billion samples a second": lambda _: wav(rate=2**32 - 1),
    "a WAV without channels": lambda _: wav(channels=0),
    "a WAV of 65535 channels": lambda _: wav(channels=65_535, samples=4),
    "a WAV in an odd codec": lambda _: wav(tag=0x1234),
    "a WAV of no bits": lambda _: wav(bits=0),
    "a FLAC head alone": lambda encoded: encoded("flac", 1.0)[:42],
    "a FLAC cut in the middle": lambda encoded: encoded("flac", 4.0)[: len(encoded("flac", 4.0)) // 2],
    "a FLAC with noise inside": lambda encoded: damaged(encoded("flac", 4.0)),
    "an Ogg head alone": lambda encoded: encoded("ogg", 1.0)[:60],
    "an Ogg magic and noise": lambda _: b"OggS" + np.random.default_rng(2).bytes(20_000),
    "an MP4 without its index": lambda encoded: encoded("m4a", 4.0)[:2000],
    "an MP4 head with a huge box": lambda _: b"\0\0\0\x18ftypM4A \0\0\0\0" + b"\xff\xff\xff\xffmoov" + bytes(100),
    "an MP4 with noise inside": lambda encoded: damaged(encoded("m4a", 4.0)),
    "a WebM head alone": lambda encoded: encoded("webm", 1.0)[:100],
    "a WebM magic and noise": lambda _: b"\x1a\x45\xdf\xa3" + np.random.default_rng(3).bytes(20_000),
    "an MP3 magic and noise": lambda _: b"ID3\x04\0\0\0\0\0\0" + bytes(20_000),
    "an MP3 tag that never ends": lambda _: b"ID3\x04\0\0\x7f\x7f\x7f\x7f" + bytes(20_000),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_no_sound_is_refused_with_the_cause(encoded, what):
    with pytest.raises(InvalidRequest) as caught:
        read(HOSTILE[what](encoded))
    assert caught.value.param == "file"
    assert caught.value.code in ("invalid_audio", "audio_too_long")
    assert caught.value.message.endswith(".")


@pytest.mark.parametrize("name", NAMES)
def test_a_recording_that_is_too_long_is_refused(encoded, name):
    with pytest.raises(InvalidRequest, match="longer than 2 s") as caught:
        read(encoded(name, 3.0), max_seconds=2)
    assert caught.value.code == "audio_too_long"


def test_decoding_ends_when_nobody_wants_it_or_its_time_is_over(encoded):
    data = encoded("flac", 3.0)
    patience = Patience(60)
    patience.abandon()
    with pytest.raises(NotWanted):
        decode(data, max_seconds=60, check=patience)
    with pytest.raises(InvalidRequest, match="took longer than 0 s"):
        decode(data, max_seconds=60, check=Patience(0))


def test_time_to_decode_is_the_recordings_own_from_when_its_turn_comes():
    now = iter([100.0, 100.0, 101.0, 102.5])
    patience = Patience(2, lambda: next(now))
    patience()
    patience()
    with pytest.raises(InvalidRequest, match="took longer than 2 s"):
        patience()
