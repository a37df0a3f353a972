"""Recordings made on the spot, and tiny Whispers with seeded random weights in both formats."""

import io
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from modelyard_runtime.settings import ServeSettings
from modelyard_runtime.speech.base import SAMPLE_RATE
from modelyard_runtime.speech.listening import sample_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

#: Container and codec of each format that is served, by the name that clients know.
FORMATS = {
    "wav": ("wav", "pcm_s16le"),
    "flac": ("flac", "flac"),
    "mp3": ("mp3", "libmp3lame"),
    "ogg": ("ogg", "libopus"),
    "m4a": ("mp4", "aac"),
    "webm": ("webm", "libopus"),
}


def encode(name: str, seconds: float, *, rate: int = 48_000, layout: str = "stereo", hertz: float = 440.0) -> bytes:
    """Returns a tone as a file of a format."""
    container, codec = FORMATS[name]
    file = io.BytesIO()
    channels = 2 if layout == "stereo" else 1
    tone = (np.sin(2 * math.pi * hertz * np.arange(int(seconds * rate)) / rate) * 12_000).astype(np.int16)
    with av.open(file, "w", format=container) as opened:
        stream = opened.add_stream(codec, rate=rate, layout=layout)
        resampler = av.AudioResampler(
            format=stream.format.name, layout=layout, rate=rate, frame_size=stream.codec_context.frame_size or 1024
        )
        frame = av.AudioFrame.from_ndarray(np.repeat(tone, channels)[None], format="s16", layout=layout)
        frame.sample_rate = rate
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            opened.mux(stream.encode(piece))
        opened.mux(stream.encode(None))
    return file.getvalue()


@pytest.fixture(scope="session")
def encoded() -> Callable[..., bytes]:
    return encode


@pytest.fixture(scope="session")
def voice() -> bytes:
    """A file in which the voice activity detection hears speech."""
    return sample_file(2.0)


def _tokenizer(languages: tuple[str, ...]) -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={symbol: index for index, symbol in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = [
        "endoftext",
        "startoftranscript",
        *languages,
        "translate",
        "transcribe",
        "startoflm",
        "startofprev",
        "nospeech",
        "notimestamps",
    ]
    tokenizer.add_special_tokens([AddedToken(f"<|{name}|>", special=True, normalized=False) for name in names])
    tokenizer.add_tokens([AddedToken(f"<|{tick * 0.02:.2f}|>", normalized=False) for tick in range(1501)])
    return tokenizer


def make_whisper(folder: Path, *, languages: tuple[str, ...] = (), positions: int = 48) -> Path:
    """Writes a Whisper of one layer into a new folder; it understands English alone where no languages are given."""
    folder.mkdir()
    tokenizer = _tokenizer(languages)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "WhisperTokenizerFast", "unk_token": "<|endoftext|>"}))

    def token(name: str) -> int:
        return int(tokenizer.token_to_id(f"<|{name}|>"))

    marks: dict[str, Any] = {"eos_token_id": token("endoftext"), "pad_token_id": token("endoftext"), "bos_token_id": token("endoftext")}
    marks["decoder_start_token_id"] = token("startoftranscript")
    torch.manual_seed(4)
    sizes = {f"{part}_{kind}": value for part in ("encoder", "decoder") for kind, value in _SIZES.items()}
    config = WhisperConfig(
        vocab_size=tokenizer.get_vocab_size(), d_model=32, max_target_positions=positions, init_std=0.4, **sizes, **marks
    )
    model = WhisperForConditionalGeneration(config)
    known = {
        "lang_to_id": {f"<|{code}|>": token(code) for code in languages},
        "task_to_id": {"transcribe": token("transcribe"), "translate": token("translate")},
    }
    model.generation_config = GenerationConfig(
        max_length=positions,
        no_timestamps_token_id=token("notimestamps"),
        prev_sot_token_id=token("startofprev"),
        is_multilingual=bool(languages),
        alignment_heads=[[0, 0], [0, 1]],
        max_initial_timestamp_index=50,
        **(known if languages else {}),
        **marks,
    )
    model.save_pretrained(folder)
    WhisperFeatureExtractor().save_pretrained(folder)
    return folder


_SIZES = {"layers": 1, "attention_heads": 2, "ffn_dim": 32}


@pytest.fixture(scope="session")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An English Whisper for Transformers."""
    return make_whisper(tmp_path_factory.mktemp("speech") / "whisper")


@pytest.fixture(scope="session")
def multilingual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Whisper for Transformers that understands two languages."""
    return make_whisper(tmp_path_factory.mktemp("speech") / "multilingual", languages=("en", "de"))


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An English Whisper in CTranslate2's format."""
    from ctranslate2.converters import TransformersConverter

    place = tmp_path_factory.mktemp("speech")
    source = make_whisper(place / "source", positions=448)
    TransformersConverter(str(source), copy_files=["tokenizer.json"]).convert(str(place / "converted"))
    return place / "converted"


@pytest.fixture(scope="session")
def speech(settings: Callable[..., ServeSettings], serving: Callable[..., Any], converted: Path) -> Iterator[Any]:
    """A server of the model in CTranslate2's format, greedy so that it is quick."""
    with serving(settings(f"file://{converted}", served_model_name="whisper", beam_size=1)) as server:
        yield server


@pytest.fixture(scope="session")
def polyglot(settings: Callable[..., ServeSettings], serving: Callable[..., Any], multilingual: Path) -> Iterator[Any]:
    """A server of the multilingual model, by Transformers."""
    with serving(settings(f"file://{multilingual}", served_model_name="whisper", beam_size=1)) as server:
        yield server


@pytest.fixture(scope="session")
def until() -> Callable[[Callable[[], bool], str], None]:
    """Waits for a condition of a server."""

    def wait(condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, f"not within 60 s: {what}"
            time.sleep(0.01)

    return wait


@pytest.fixture(scope="session")
def silence() -> bytes:
    """Three seconds of nothing, as a WAV file."""
    import wave

    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(SAMPLE_RATE)
        writer.writeframes(bytes(2 * 3 * SAMPLE_RATE))
    return file.getvalue()
