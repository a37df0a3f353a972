"""What a model may be made to serve by name, and what it is told that it takes and does not act on."""

import json
from pathlib import Path

import pytest
from modelyard.api.reasons import Reason
from modelyard_runtime.errors import ArgumentsInvalid
from modelyard_runtime.serving.detection import family_for
from modelyard_runtime.serving.loading import check_options, find

CONFIGS = {
    "decoder": {"architectures": ["Qwen3ForCausalLM"]},
    "seeing": {"architectures": ["Qwen3VLForConditionalGeneration"], "vision_config": {}},
    "encoder": {"architectures": ["BertModel"]},
    "classifier": {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "a", "1": "b"}},
    "reranker": {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "a"}},
    "whisper": {"architectures": ["WhisperForConditionalGeneration"], "model_type": "whisper"},
    "unknown": {"architectures": ["WalrusForSwimming"]},
}


@pytest.fixture
def folder(tmp_path) -> Path:
    for name, config in CONFIGS.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    return tmp_path


@pytest.mark.parametrize(
    ("model", "wanted", "family"),
    [
        ("decoder", ("chat",), "generation"),
        ("decoder", ("embeddings",), "embeddings"),
        ("decoder", ("embeddings", "rerank"), "embeddings"),
        ("seeing", ("chat", "vision"), "generation"),
        ("encoder", ("rerank",), "embeddings"),
        ("classifier", ("classify",), "ranking"),
        ("classifier", ("embeddings",), "embeddings"),
        ("reranker", ("rerank",), "ranking"),
        ("whisper", ("transcription",), "transcription"),
        ("unknown", ("chat",), "generation"),
        ("unknown", ("embeddings",), "embeddings"),
    ],
)
def test_a_capability_that_files_allow_is_served_by_its_family(folder, model, wanted, family):
    assert family_for(folder / model, wanted).name == family


@pytest.mark.parametrize(
    ("model", "wanted", "made", "remedy"),
    [
        ("decoder", ("transcription",), "completions", "Whisper"),
        ("decoder", ("rerank",), "completions", "embedding model"),
        ("decoder", ("classify",), "completions", "ForSequenceClassification"),
        ("decoder", ("chat", "vision"), "completions", "reads images"),
        ("encoder", ("chat",), "embeddings and rerank", "a decoder"),
        ("encoder", ("classify",), "embeddings and rerank", "ForSequenceClassification"),
        ("classifier", ("completions",), "classify", "a decoder"),
        ("whisper", ("chat",), "transcription", "a decoder"),
        ("whisper", ("embeddings",), "transcription", "embedding model"),
    ],
)
def test_one_that_they_do_not_allow_is_refused_with_what_the_model_is_made_for(folder, model, wanted, made, remedy):
    with pytest.raises(ArgumentsInvalid) as refused:
        family_for(folder / model, wanted)
    assert refused.value.message == f"--capability: this model is made for {made}, not for {' and '.join(wanted)}"
    assert remedy in refused.value.remedy


def test_a_chat_model_for_transcription_ends_the_start_in_plain_words(start):
    failure = start("builtin://tiny-chat", capability=("transcription",), wait=False).join()
    assert failure is not None
    assert failure.reason is Reason.ENGINE_ARGUMENTS_INVALID
    assert failure.message == "--capability: this model is made for chat and completions, not for transcription"


@pytest.mark.parametrize(
    ("given", "flag", "field"),
    [
        ({"temperature": 0.2}, "--temperature", "spec.generation"),
        ({"default_max_tokens": 5}, "--default-max-tokens", "spec.generation"),
        ({"adapter": ("a=file:///x",)}, "--adapter", "spec.engine.adapters"),
        ({"quantization": "int8"}, "--quantization", "spec.engine.quantization"),
        ({"kv_cache_tokens": 64}, "--kv-cache-tokens", "spec.engine.kvCacheTokens"),
        ({"prefix_caching": False}, "--prefix-caching", "spec.engine.prefixCaching"),
        ({"beam_size": 2}, "--beam-size", "spec.engine.beamSize"),
    ],
)
def test_what_a_model_would_ignore_ends_its_start(start, given, flag, field):
    failure = start("builtin://tiny-embed", **given, wait=False).join()
    assert failure is not None
    assert failure.reason is Reason.ENGINE_ARGUMENTS_INVALID
    assert failure.message == f"{flag}: builtin://tiny-embed is a model for embeddings, which takes none"
    assert f"({field})" in failure.remedy


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"max_batch_tokens": 64}, "spec.engine.maxBatchTokens"),
        ({"report_usage": False}, "spec.engine.reportUsage"),
        ({"embedding_cache_bytes": 0}, "spec.engine.embeddingCache"),
        ({"beam_size": 2}, "spec.engine.beamSize"),
    ],
)
def test_what_is_for_other_models_than_those_that_write_ends_its_start(start, given, field):
    failure = start("builtin://tiny-chat", **given, wait=False).join()
    assert failure is not None
    assert failure.message.endswith("builtin://tiny-chat is a model for generation, which takes none")
    assert f"({field})" in failure.remedy


def test_fewer_bits_of_a_server_of_several_are_for_models_that_write(settings):
    given = settings("builtin://tiny-embed", quantization="int8")
    found = find(given, lambda _: None)
    check_options(found, given, frozenset())
    with pytest.raises(ArgumentsInvalid, match="--quantization"):
        check_options(found, given, frozenset({"quantization"}))


def test_what_a_server_of_several_says_is_for_those_that_it_concerns(start, tmp_path):
    server = start(("builtin://tiny-chat", "builtin://tiny-embed"), temperature=0.2)
    states = {name: model["state"] for name, model in server.progress()["models"].items()}
    assert states == {"tiny-chat": "ready", "tiny-embed": "ready"}
    catalogue = tmp_path / "models.yaml"
    entries = ["{source: 'builtin://tiny-chat', preload: true}", "{source: 'builtin://tiny-embed', preload: true, top_p: 0.5}"]
    catalogue.write_text("models:\n" + "".join(f"  - {entry}\n" for entry in entries))
    server = start((), catalogue=catalogue)
    states = {name: model["state"] for name, model in server.progress()["models"].items()}
    assert states == {"tiny-chat": "ready", "tiny-embed": "failed"}
