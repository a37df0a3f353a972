import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from faster_whisper import WhisperModel
from modelyard_runtime.errors import ArgumentsInvalid, UnsupportedModel, WeightsNotFound
from modelyard_runtime.serving import transcription
from modelyard_runtime.serving.detection import detect
from modelyard_runtime.settings import ServeSettings
from modelyard_runtime.speech.base import FALLBACK, Task
from modelyard_runtime.speech.decode import decode
from modelyard_runtime.speech.faster import FasterWhisper
from modelyard_runtime.speech.vad import STEP, to_samples
from modelyard_runtime.speech.whisper import TransformersWhisper
from modelyard_runtime.speech.windows import plan
from safetensors.torch import load_file, save_file

GREEDY = (0.0,)


@pytest.fixture(scope="module")
def samples(voice):
    return to_samples(decode(voice, max_seconds=60, check=lambda: None))


@pytest.fixture(scope="module")
def model(whisper):
    return TransformersWhisper(whisper, device=torch.device("cpu"), dtype=torch.float32, beams=1)


def test_a_folder_says_what_it_holds(whisper, converted):
    assert detect(whisper) == detect(converted) == ("transcription",)


def test_windows_of_a_batch_are_read_as_alone(model, samples):
    windows = [samples, samples[:20_000], samples[5000:]]
    together = model.transcribe(windows, Task("en", temperatures=GREEDY))
    alone = [model.transcribe([window], Task("en", temperatures=GREEDY))[0] for window in windows]
    assert [[one.tokens for one in segments] for segments in together] == [[one.tokens for one in segments] for segments in alone]
    for segments, window in zip(together, windows, strict=True):
        assert segments
        assert all(0 <= one.start <= one.end <= len(window) / 16_000 + 0.1 for one in segments)


def test_words_have_times_and_make_up_their_text(model, samples):
    (segments,) = model.transcribe([samples], Task("en", temperatures=GREEDY, words=True))
    timed = [word for segment in segments for word in segment.words]
    assert timed
    assert all(0 <= word.start <= word.end <= 2.1 and 0 <= word.probability <= 1 for word in timed)
    assert [word.start for word in timed] == sorted(word.start for word in timed)
    plain = model.transcribe([samples], Task("en", temperatures=GREEDY))[0]
    assert [one.tokens for one in plain] == [one.tokens for one in segments]


@pytest.mark.parametrize("beams", [1, 3])
def test_an_unlikely_text_is_tried_hotter(whisper, samples, beams):
    model = TransformersWhisper(whisper, device=torch.device("cpu"), dtype=torch.float32, beams=beams)
    cold = model.transcribe([samples], Task("en", temperatures=GREEDY))[0]
    assert cold[0].avg_logprob < -1
    torch.manual_seed(0)
    warm = model.transcribe([samples], Task("en", temperatures=FALLBACK))[0]
    assert warm[0].temperature > 0
    assert warm[0].avg_logprob > cold[0].avg_logprob


def test_a_prompt_changes_what_comes_and_may_be_any_length(model, samples):
    plain, led, long = (
        model.transcribe([samples], Task("en", prompt=prompt, temperatures=GREEDY))[0] for prompt in ("", "names", "x" * 5000)
    )
    assert len({tuple(one.tokens for one in segments) for segments in (plain, led, long)}) > 1


def test_a_multilingual_model_hears_languages_and_translates(multilingual, samples):
    model = TransformersWhisper(multilingual, device=torch.device("cpu"), dtype=torch.float32, beams=1)
    assert set(model.languages) == {"en", "de"}
    assert model.shown() == {"name": "transformers", "device": "cpu", "dtype": "float32"}
    assert model.detect_language(samples) in model.languages
    german = model.transcribe([samples], Task("de", temperatures=GREEDY))[0]
    english = model.transcribe([samples], Task("de", translate=True, temperatures=GREEDY))[0]
    assert [one.tokens for one in german] != [one.tokens for one in english]


def test_ctranslate2_reads_as_faster_whisper_itself(converted, samples):
    ours = FasterWhisper(converted, device="cpu", dtype="auto", beams=2)
    theirs = WhisperModel(str(converted), device="cpu")
    assert ours.languages == ("en",)
    assert ours.shown() == {"name": "faster-whisper", "device": "cpu", "dtype": "float32"}
    expected, _ = theirs.transcribe(samples, beam_size=2, temperature=[0.0], word_timestamps=True, language="en")
    (found,) = ours.transcribe([samples], Task("en", temperatures=GREEDY, words=True))
    assert [(one.start, one.end, one.text, list(one.tokens)) for one in found] == [
        (one.start, one.end, one.text, one.tokens) for one in expected
    ]


def test_a_long_talk_without_a_pause_is_read_as_faster_whisper_itself_reads_it(converted, voice):
    """Nothing is cut: the model goes from window to window by its own timestamps, and remembers what was said."""
    recording = np.tile(decode(voice, max_seconds=60, check=lambda: None), 20)
    steps = len(recording) // STEP
    ours = FasterWhisper(converted, device="cpu", dtype="auto", beams=1)
    (window,) = plan([(0, len(recording))], np.ones(steps, np.float32), ours.longest * 16_000)
    (found,) = ours.transcribe([window.samples(recording)], Task("en", temperatures=GREEDY))
    theirs = WhisperModel(str(converted), device="cpu")
    expected, _ = theirs.transcribe(to_samples(recording), beam_size=1, temperature=[0.0], language="en")
    assert [(one.start, one.end, one.text) for one in found] == [(one.start, one.end, one.text) for one in expected]
    assert found[-1].end > 30


def test_ctranslate2_has_an_openmp_library_of_its_own(tmp_path):
    """And its threads wait for as long as suits it, even where PyTorch was there before."""
    program = (
        "from modelyard_runtime.hardware import set_waiting; set_waiting('shared'); import torch; "
        "from modelyard_runtime.speech.threads import bind_ctranslate2; bind_ctranslate2(); import os; print(os.environ['GOMP_SPINCOUNT'])"
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GOMP_", "OMP_"))}
    traced = kept | {"LD_DEBUG": "bindings", "LD_DEBUG_OUTPUT": str(tmp_path / "bindings"), "OMP_DISPLAY_ENV": "verbose"}
    done = subprocess.run([sys.executable, "-c", program], env=traced, capture_output=True, text=True, check=True)
    assert done.stdout == "10000\n"
    assert re.findall(r"GOMP_SPINCOUNT = '(\d+)'", done.stderr) == ["10000", "2000"]
    traces = [line for file in tmp_path.iterdir() for line in file.read_text().splitlines()]
    bound = [line for line in traces if "libctranslate2" in line and "`GOMP_parallel'" in line]
    assert bound
    assert all("ctranslate2.libs/libgomp" in line for line in bound)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"alignment_heads": [[99, 99]]}, "alignment_heads"),
        ({"alignment_heads": [[0, 2]]}, "layers of 2 heads"),
        ({"alignment_heads": [[-1, 0]]}, "alignment_heads"),
        ({"alignment_heads": []}, "alignment_heads"),
        ({"alignment_heads": "x"}, "alignment_heads"),
        ({"suppress_ids": [1 << 30]}, "suppress_ids"),
        ({"suppress_ids_begin": [-7]}, "suppress_ids_begin"),
        ({"lang_ids": ["en"]}, "lang_ids"),
    ],
)
def test_a_config_that_would_lead_ctranslate2_past_its_memory_is_refused(converted, tmp_path, changes, words):
    folder = shutil.copytree(converted, tmp_path / "model")
    (folder / "config.json").write_text(json.dumps(json.loads((folder / "config.json").read_text()) | changes))
    with pytest.raises(UnsupportedModel, match=words):
        FasterWhisper(folder, device="cpu", dtype="auto", beams=1)


def test_weights_that_are_missing_are_not_made_up(whisper, tmp_path):
    folder = shutil.copytree(whisper, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    del weights["model.decoder.layers.0.fc1.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsNotFound, match=r"lacks weights .*fc1\.weight"):
        transcription.load(folder, ServeSettings(model="file:///x"), ("transcription",), lambda step: None)


def test_a_damaged_file_of_ctranslate2s_is_named(converted, tmp_path):
    folder = shutil.copytree(converted, tmp_path / "model")
    whole = (converted / "model.bin").read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], whole[:4] + b"\xff\xff\xff\x7f" + whole[8:], b"\xff" * 1000):
        (folder / "model.bin").write_bytes(damaged)
        with pytest.raises(UnsupportedModel, match="model"):
            FasterWhisper(folder, device="cpu", dtype="auto", beams=1)


def test_what_cannot_be_loaded_says_why(whisper, converted, tmp_path, monkeypatch):
    def load(source, without, **changes):
        folder = tmp_path / f"{source.name}-{len(list(tmp_path.iterdir()))}"
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns(without))
        for name, change in changes.items():
            path = folder / f"{name}.json"
            path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != change}))
        return transcription.load(folder, ServeSettings(model="file:///x"), ("transcription",), lambda step: None)

    with pytest.raises(WeightsNotFound, match=r"no tokenizer\.json"):
        load(converted, "tokenizer.json")
    with pytest.raises(WeightsNotFound, match=r"no preprocessor_config\.json"):
        load(whisper, "preprocessor_config.json")
    with pytest.raises(UnsupportedModel, match="no alignment_heads"):
        load(whisper, "", generation_config="alignment_heads")
    with pytest.raises(WeightsNotFound, match=r"no \.safetensors file"):
        load(whisper, "*.safetensors")
    with pytest.raises(UnsupportedModel, match="CTranslate2"):
        load(converted, "vocabulary.json")
    with pytest.raises(ArgumentsInvalid, match="float16"):
        FasterWhisper(converted, device="cpu", dtype="float16", beams=1)
    monkeypatch.setattr(transcription, "_NEEDED", ("av", "no_such_package"))
    with pytest.raises(UnsupportedModel, match="not installed: no_such_package") as caught:
        load(whisper, "")
    assert "modelyard[audio]" in caught.value.remedy
