"""Models that the batching engine cannot run, and those whose code lies in their folder, over HTTP."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from modelyard_runtime.errors import ArgumentsInvalid, UnsupportedModel
from modelyard_runtime.progress import Step
from modelyard_runtime.serving.catalogue import parse
from modelyard_runtime.serving.engines import choose
from modelyard_runtime.settings import ServeSettings
from modelyard_runtime.sources.tiny import make_chat
from transformers import AutoTokenizer, BloomConfig, BloomForCausalLM

from .conftest import Running, running

CODE = '''
import torch
from torch import nn
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput


class EchoConfig(PretrainedConfig):
    model_type = "echo_of_words"


class EchoForCausalLM(PreTrainedModel, GenerationMixin):
    """Means over the words before, without attention and without a cache."""

    config_class = EchoConfig
    _supports_cache_class = False

    def __init__(self, config):
        super().__init__(config)
        self.words = nn.Embedding(config.vocab_size, config.hidden_size)
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def prepare_inputs_for_generation(self, input_ids, **kwargs):
        return {"input_ids": input_ids}

    def forward(self, input_ids=None, attention_mask=None, **kwargs):
        rows = self.words(input_ids)
        counts = torch.arange(1, rows.shape[1] + 1, device=rows.device)[None, :, None]
        return CausalLMOutput(logits=self.head(rows.cumsum(1) / counts))
'''
SCHEMA = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"], "additionalProperties": False}


@pytest.fixture(scope="module")
def bloom_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fallback") / "tiny-bloom"
    folder.mkdir()
    make_chat(folder)
    torch.manual_seed(3)
    words = len(AutoTokenizer.from_pretrained(folder))
    sizes = {"hidden_size": 64, "n_layer": 2, "n_head": 4, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    BloomForCausalLM(BloomConfig(vocab_size=words, initializer_range=0.25, **sizes)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bloom(settings: Callable[..., Any], bloom_folder: Path) -> Iterator[Running]:
    with running(settings(f"file://{bloom_folder}")) as server:
        yield server


@pytest.fixture
def echo_folder(tmp_path: Path) -> Path:
    """A folder whose architecture no library knows; its code lies beside the weights."""
    folder = tmp_path / "tiny-echo"
    folder.mkdir()
    make_chat(folder)
    scope: dict[str, Any] = {"__name__": "echo"}
    exec(compile(CODE, "echo.py", "exec"), scope)
    torch.manual_seed(3)
    config = scope["EchoConfig"](vocab_size=len(AutoTokenizer.from_pretrained(folder)), hidden_size=32, num_hidden_layers=1, eos_token_id=2)
    scope["EchoForCausalLM"](config).save_pretrained(folder)
    (folder / "modeling_echo.py").write_text(CODE)
    written = json.loads((folder / "config.json").read_text())
    names = {"AutoConfig": "modeling_echo.EchoConfig", "AutoModelForCausalLM": "modeling_echo.EchoForCausalLM"}
    (folder / "config.json").write_text(json.dumps(written | {"auto_map": names}))
    return folder


def ask(server: Running, **more: Any) -> dict[str, Any]:
    body = {
        "model": server.name,
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": 12,
        "ignore_eos": True,
        "temperature": 0,
    }
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=body | more, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


def text(answer: dict[str, Any]) -> str:
    return answer["choices"][0]["message"]["content"]


def test_the_status_shows_the_chain(bloom: Running) -> None:
    engine = httpx.get(f"{bloom.url}/v1/models/tiny-bloom").json()["engine"]
    assert engine["name"] == "generate"
    assert [tried["name"] for tried in engine["tried"]] == ["batching"]
    assert "BloomForCausalLM" in engine["tried"][0]["why"]
    assert httpx.get(f"{bloom.private_url}/admin/models").json()["data"][0]["engine"] == engine


def test_the_batching_engine_is_first(chat: Running) -> None:
    engine = httpx.get(f"{chat.url}/v1/models/tiny-chat").json()["engine"]
    assert (engine["name"], engine["tried"]) == ("batching", [])
    assert (engine["device"], engine["quantization"]) == ("cpu", "none")
    assert engine["dtype"] in {"float32", "bfloat16"}
    assert engine["kernels"]["FusedLayer"] == 2
    assert httpx.get(f"{chat.private_url}/admin/diagnostics").json()["engines"] == {"tiny-chat": engine}
    assert chat.progress()["models"]["tiny-chat"]["engine"] == engine


def test_answers_stream_as_they_are_and_seeds_hold(bloom: Running) -> None:
    whole = text(ask(bloom))
    asked = {"model": "tiny-bloom", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 12, "temperature": 0}
    with bloom.openai() as client:
        chunks = list(client.chat.completions.create(**asked, stream=True, extra_body={"ignore_eos": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole
    assert len(chunks) > 3
    assert chunks[-1].choices[0].finish_reason == "length"
    warm = [text(ask(bloom, temperature=1.5, seed=seed)) for seed in (4, 4, 5)]
    assert warm[0] == warm[1] != warm[2]


def test_stop_strings_log_probabilities_and_choices(bloom: Running) -> None:
    whole = text(ask(bloom))
    stop = whole[len(whole) // 2 :][:3]
    stopped = ask(bloom, stop=[stop])
    assert (text(stopped), stopped["choices"][0]["finish_reason"]) == (whole[: whole.index(stop)], "stop")
    told = ask(bloom, logprobs=True, top_logprobs=2, n=2)
    assert [len(choice["logprobs"]["content"]) for choice in told["choices"]] == [12, 12]
    assert len(told["choices"][0]["logprobs"]["content"][0]["top_logprobs"]) == 2


def test_answers_keep_to_a_schema(bloom: Running) -> None:
    format_ = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}}
    answer = ask(bloom, response_format=format_, max_tokens=100, temperature=1.0, seed=1, ignore_eos=False)
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert isinstance(json.loads(text(answer))["ok"], bool)


def test_a_stream_that_is_left_frees_the_engine(bloom: Running) -> None:
    body = {
        "model": "tiny-bloom",
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": 1500,
        "ignore_eos": True,
        "stream": True,
    }
    with httpx.stream("POST", f"{bloom.url}/v1/chat/completions", json=body) as answer:
        next(answer.iter_lines())
    before = bloom.metric("generation_tokens_total")
    assert len(text(ask(bloom))) > 0
    assert bloom.metric("generation_tokens_total") - before < 1500


def test_adapters_are_refused_with_the_whole_chain(settings: Callable[..., Any], bloom_folder: Path, tmp_path: Path) -> None:
    with running(settings(f"file://{bloom_folder}", adapter=(f"mine=file://{tmp_path}",)), wait=False) as server:
        failure = server.join()
    assert isinstance(failure, UnsupportedModel)
    assert "batching: BloomForCausalLM" in failure.message
    assert "generate: it has no adapters" in failure.message


def reads(folder: Path, settings: ServeSettings) -> tuple[str, int]:
    """Returns which engine was chosen, and how often the weights were read for it."""
    seen: list[Step] = []
    return choose(folder, settings, ("chat",), seen.append).name, sum(step.fraction == 0.0 for step in seen)


def test_weights_are_read_once_unless_they_were_laid_out_in_vain(
    settings: Callable[..., ServeSettings], bloom_folder: Path, echo_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "chunked"
    folder.mkdir()
    make_chat(folder)
    assert reads(folder, settings()) == ("batching", 1)
    assert reads(bloom_folder, settings()) == ("generate", 1)
    assert reads(echo_folder, settings(trust_remote_code=True)) == ("generate", 1)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"attention_chunk_size": 64}))
    assert reads(folder, settings()) == ("generate", 2)


def test_code_beside_the_weights_runs_when_it_is_trusted(settings: Callable[..., Any], echo_folder: Path) -> None:
    with running(settings(f"file://{echo_folder}", trust_remote_code=True, max_model_length=256)) as server:
        assert httpx.get(f"{server.url}/v1/models/tiny-echo").json()["engine"]["name"] == "generate"
        assert text(ask(server))


def test_code_beside_the_weights_is_refused_otherwise(settings: Callable[..., Any], echo_folder: Path) -> None:
    marker = echo_folder.parent / "ran"
    code = echo_folder / "modeling_echo.py"
    code.write_text(f"open({str(marker)!r}, 'w')\n{code.read_text()}")
    with running(settings(f"file://{echo_folder}"), wait=False) as server:
        failure = server.join()
    assert isinstance(failure, UnsupportedModel)
    assert "echo_of_words" in failure.message
    assert "spec.model.trustRemoteCode" in failure.remedy
    assert "--trust-remote-code" in failure.remedy
    assert not marker.exists()


def test_a_file_may_trust_a_model_and_a_request_may_not(chat: Running) -> None:
    entry = {"source": "hf://a/b", "trust_remote_code": True}
    assert parse(json.dumps({"models": [entry]}).encode(), "file")[0].own() == {"trust_remote_code": True}
    answer = httpx.post(f"{chat.private_url}/admin/pulls", json=entry)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "trust_remote_code"
    with pytest.raises(ArgumentsInvalid, match="trust_remote_code"):
        parse(json.dumps({"models": [entry | {"trust_remote_code": "perhaps"}]}).encode(), "file")
