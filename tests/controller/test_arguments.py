"""Flags of the runtime: which field says what, and that every flag has a field or a reason to have none."""

import pytest
from modelyard.api.fields import OWNED_FLAGS
from modelyard.controller.builders.arguments import arguments
from modelyard_runtime.arguments import parse
from modelyard_runtime.settings import ServeSettings

OWNED = set(OWNED_FLAGS.split("|"))
#: Flags that the pod's place says, by its environment.
OF_THE_PLACE = {"host", "port", "metrics-port", "cache-dir", "model-dir", "token-file", "termination-log"}
#: Flags that no field says, for `engine.args`, by why there is none.
WITHOUT_FIELD = {
    "told from the hardware": {"device", "device-map", "device-memory", "cores", "kv-cache", "cuda-graphs"},
    "the gateway keeps to such bounds before": {"body-timeout", "stall-timeout", "max-buffered-bytes", "max-connections"},
    "rarely changed": {"engine-step-timeout", "grammar-timeout", "settle-time", "log-level", "otlp-endpoint", "max-image-memory"},
    "several models in one server": {"catalogue", "lazy", "memory-budget", "failure-cooldown", "idle-unload"},
    "a server of its own, which clients change": {"allow-pull", "max-pulls", "state-dir", "ollama-admin"},
    "a server of its own, which clients reach": {"api-key", "api-key-file", "admin-key", "admin-key-file"},
}

#: Each field that the runtime acts on, and its flags.
ROWS = [
    ({"model": {"source": "hf://a/b"}}, ["--model=hf://a/b"]),
    ({"model": {"source": "hf://a/b", "capabilities": ["chat"]}}, ["--capability=chat"]),
    ({"model": {"source": "hf://a/b", "trustRemoteCode": True}}, ["--trust-remote-code=true"]),
    ({"engine": {"dtype": "float32"}}, ["--dtype=float32"]),
    ({"engine": {"quantization": "auto", "quantizeAbove": "1Gi"}}, ["--quantization=auto", "--quantize-above=1073741824"]),
    ({"engine": {"maxModelLength": 64}}, ["--max-model-length=64"]),
    ({"engine": {"maxConcurrentSequences": 2}}, ["--max-concurrent-sequences=2"]),
    ({"engine": {"adapters": [{"name": "a", "source": "hf://a/c"}]}}, ["--adapter=a=hf://a/c"]),
    ({"engine": {"kvCacheTokens": 1 << 40}}, ["--kv-cache-tokens=1099511627776"]),
    ({"engine": {"prefixCaching": False}}, ["--prefix-caching=false"]),
    ({"engine": {"speculativeTokens": 4}}, ["--speculative-tokens=4"]),
    ({"engine": {"maxBatchTokens": 4096}}, ["--max-batch-tokens=4096"]),
    ({"engine": {"embeddingCache": "0"}}, ["--embedding-cache-bytes=0"]),
    ({"engine": {"embeddingCache": "1Ti"}}, ["--embedding-cache-bytes=1099511627776"]),
    ({"engine": {"reportUsage": False}}, ["--report-usage=false"]),
    ({"engine": {"beamSize": 1}}, ["--beam-size=1"]),
    ({"engine": {"vllmMetricNames": True}}, ["--vllm-metric-names=true"]),
    ({"limits": {"maxConcurrency": 1, "maxQueue": 2}}, ["--max-concurrency=1", "--max-queue=2"]),
    ({"limits": {"queueTimeout": "5s", "requestTimeout": "6s"}}, ["--queue-timeout=5s", "--request-timeout=6s"]),
    ({"limits": {"maxPromptTokens": 8, "maxNewTokens": 9}}, ["--max-prompt-tokens=8", "--max-new-tokens=9"]),
    ({"limits": {"maxChoices": 128, "maxBodySize": "1Gi"}}, ["--max-choices=128", "--max-body-bytes=1073741824"]),
    ({"rollout": {"drainTimeout": "0s"}}, ["--drain-timeout=0s"]),
    ({"generation": {"temperature": 0.2, "topP": 0.5, "topK": 3}}, ["--temperature=0.2", "--top-p=0.5", "--top-k=3"]),
    ({"generation": {"minP": 0.1, "repetitionPenalty": 1.1}}, ["--min-p=0.1", "--repetition-penalty=1.1"]),
    ({"generation": {"maxTokens": 64, "config": "none"}}, ["--default-max-tokens=64", "--generation-config=none"]),
    ({"generation": {"toolParser": "hermes", "reasoningParser": "none"}}, ["--tool-parser=hermes", "--reasoning-parser=none"]),
    ({"generation": {"chatTemplateKwargs": ["one", "two"]}}, ["--chat-template-kwargs=one", "--chat-template-kwargs=two"]),
    (
        {"media": {"fetch": {"hosts": ["a.example", "*.b.example:8443"]}}},
        ["--media-hosts=a.example", "--media-hosts=*.b.example:8443", "--media-timeout=10s"],
    ),
    (
        {"media": {"images": {"maxSize": "1.5Mi", "maxCount": 2, "maxPixels": 1000}}},
        ["--max-media-bytes=1572864", "--max-images=2", "--max-image-pixels=1000"],
    ),
    (
        {"media": {"audio": {"maxSize": "1Ki", "maxLength": "1500ms", "timeout": "1h"}}},
        ["--max-audio-bytes=1024", "--max-audio-seconds=2", "--audio-timeout=1h"],
    ),
    ({"warmup": {"capabilities": ["chat"], "skip": ["vision"]}}, ["--warmup=chat", "--warmup-skip=vision"]),
    ({"warmup": {"steps": 2, "batch": 3, "memory": "1Gi"}}, ["--warmup-steps=2", "--warmup-batch=3", "--warmup-memory=1073741824"]),
]


def names(flags):
    return {flag.removeprefix("--").partition("=")[0] for flag in flags}


@pytest.mark.parametrize(("spec", "flags"), ROWS)
def test_a_field_reaches_the_runtime_which_knows_its_flags(make_model, spec, flags):
    planned = arguments(make_model(**spec))
    assert set(flags) <= set(planned)
    settings = parse(["serve", *planned])
    assert {name.replace("-", "_") for name in names(flags)} <= settings.model_fields_set


def test_what_no_field_says_is_left_to_the_runtime(make_model):
    empty = make_model(media={"images": {}, "audio": {}}, generation={}, engine={}, limits={})
    assert arguments(empty) == arguments(make_model())
    assert arguments(make_model(media={"audio": {"maxLength": "2h"}}))[len(arguments(make_model())) :] == ["--max-audio-seconds=7200"]


def test_every_flag_of_the_runtime_has_a_field_or_a_reason_to_have_none():
    known = {name.replace("_", "-") for name in ServeSettings.model_fields}
    without = set().union(*WITHOUT_FIELD.values())
    assert OWNED | without == known
    assert OWNED & without == set()


def test_a_flag_that_a_field_says_is_refused_among_the_arguments():
    said = set().union({"served-model-name"}, *(names(flags) for _, flags in ROWS))
    assert said | OF_THE_PLACE == OWNED
