"""Files of models that anybody may have written: each is refused with its cause, and the server that was to load it is unharmed."""

import json
import os
import shutil
import struct
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from modelyard_runtime.settings import ServeSettings
from modelyard_runtime.sources.resolve import resolve

from .conftest import Running, running

Change = Callable[[Path], object]
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}


def written(file: str, data: bytes) -> Change:
    """Returns what makes a file say something else."""
    return lambda folder: (folder / file).write_bytes(data)


def unreadable(file: str) -> Change:
    """Returns what makes a file one that no user can read, root neither."""

    def change(folder: Path) -> None:
        (folder / file).unlink()
        (folder / file).symlink_to("/proc/self/mem")

    return change


def changed(file: str, **values: Any) -> Change:
    """Returns what changes keys of a file's object; ``__`` goes a level down."""

    def change(folder: Path) -> None:
        content = json.loads((folder / file).read_text())
        for name, value in values.items():
            *ways, last = name.split("__")
            place = content
            for way in ways:
                place = place[way]
            place[last] = value
        (folder / file).write_text(json.dumps(content))

    return change


def tensors(**described: Any) -> bytes:
    """Returns a file of safetensors with such a head and four bytes of data."""
    head = json.dumps(described).encode()
    return struct.pack("<Q", len(head)) + head + bytes(4)


def pattern(text: str) -> Change:
    """Returns what makes a tokenizer cut texts by a regular expression."""
    return changed("tokenizer.json", pre_tokenizer={"type": "Split", "pattern": {"Regex": text}, "behavior": "Isolated", "invert": False})


def doubling(part: str) -> Change:
    """Returns what makes a rule of a tokenizer double a letter seven times."""
    rule = {"type": "Replace", "pattern": {"String": "e"}, "content": "ee"}
    return changed("tokenizer.json", **{part: {"type": "Sequence", f"{part}s": [rule] * 7}})


def crowded(folder: Path) -> None:
    """Makes a tokenizer put ten thousand tokens before each text."""
    special = {"X": {"id": "X", "ids": [1] * 100, "tokens": ["a"] * 100}}
    pieces = [{"SpecialToken": {"id": "X", "type_id": 0}}] * 100
    text = {"Sequence": {"id": "A", "type_id": 0}}
    template = {"type": "TemplateProcessing", "single": [*pieces, text], "pair": [text, text], "special_tokens": special}
    changed("tokenizer.json", post_processor={"type": "Sequence", "processors": [template]})(folder)


def endless(name: str) -> Change:
    """Returns what puts a device in a file's place, which can be read for ever."""

    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to("/dev/zero")

    return change


def vast(name: str) -> Change:
    """Returns what makes a file of a terabyte of zeros, which takes no disk."""

    def change(folder: Path) -> None:
        with (folder / name).open("ab") as file:
            file.truncate(1 << 40)

    return change


def piped(folder: Path) -> None:
    """Puts a pipe in a file's place, which nobody writes to."""
    os.mkfifo(folder / "chat_template.jinja")


WRONG_MODULE = b'[{"type": "sentence_transformers.models.Pooling", "path": "../../other"}]'
HUGE = tensors(a={"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]})

# name: built-in model, what is done to its files, the reason, words of the message
ROWS: dict[str, tuple[str, Change, str, str]] = {
    "tokenizer-cut": ("tiny-chat", lambda folder: written("tokenizer.json", (folder / "tokenizer.json").read_bytes()[:999])(folder),
                      "WeightsNotFound", "the tokenizer of tokenizer-cut cannot be read"),
    "tokenizer-empty": ("tiny-chat", written("tokenizer.json", b""), "WeightsNotFound", "cannot be read"),
    "tokenizer-endless": ("tiny-chat", endless("tokenizer.json"), "UnsupportedModel", "of tokenizer-endless is no regular file"),
    "tokenizer-vast": ("tiny-embed", vast("tokenizer.json"), "UnsupportedModel", "has 1099511627776 bytes"),
    "template-pipe": ("tiny-chat", piped, "UnsupportedModel", "is no regular file"),
    "pooling-vast": ("tiny-embed", vast("1_Pooling/config.json"), "UnsupportedModel", "config.json of 1_Pooling has 1099511627776 bytes"),
    "weights-endless": ("tiny-chat", endless("model.safetensors"), "UnsupportedModel", "is no regular file"),
    "tokenizer-list": ("tiny-chat", written("tokenizer.json", b"[]"), "WeightsNotFound", "cannot be read"),
    "tokenizer-nested": ("tiny-chat", written("tokenizer.json", b"[" * 100_000), "WeightsNotFound", "cannot be read"),
    "tokenizer-noise": ("tiny-embed", written("tokenizer.json", bytes(range(256)) * 9), "WeightsNotFound", "cannot be read"),
    "tokenizer-pattern": ("tiny-chat", pattern("(a+"), "UnsupportedModel", "unmatched parenthesis"),
    "tokenizer-ids": ("tiny-chat", changed("tokenizer.json", model__vocab={"H": 10**6}), "UnsupportedModel", "tokenizer-ids"),
    "tokenizer-config-list": ("tiny-chat", written("tokenizer_config.json", b"[]"), "UnsupportedModel",
                              "tokenizer_config.json of tokenizer-config-list is not an object"),
    "template-number": ("tiny-chat", changed("tokenizer_config.json", chat_template=5), "UnsupportedModel", "template-number"),
    "template-hunger": ("tiny-chat", changed("tokenizer_config.json", chat_template="{{ 'x' * 9999999999 }}"), "UnsupportedModel",
                        "more than 512 MiB"),
    "config-unreadable": ("tiny-chat", unreadable("config.json"), "WeightsNotFound", "config.json of config-unreadable cannot be read"),
    "config-list": ("tiny-chat", written("config.json", b"[]"), "UnsupportedModel", "config.json of config-list is not an object"),
    "config-cut": ("tiny-chat", written("config.json", b'{"model_type": '), "UnsupportedModel", "config.json of config-cut is no JSON"),
    "config-nested": ("tiny-embed", written("config.json", b'{"a":' * 100_000), "UnsupportedModel", "is no JSON"),
    "config-empty": ("tiny-chat", written("config.json", b"{}"), "UnsupportedModel", "neither a decoder nor an encoder"),
    "config-architectures": ("tiny-chat", changed("config.json", architectures=5), "UnsupportedModel", "model_type qwen3"),
    "config-heads": ("tiny-chat", changed("config.json", num_attention_heads=7), "UnsupportedModel", "cannot be loaded"),
    "config-dtype": ("tiny-chat", changed("config.json", dtype="__import__"), "UnsupportedModel", "config.json of config-dtype"),
    "config-end": ("tiny-chat", changed("config.json", eos_token_id="x"), "UnsupportedModel", "eos_token_id"),
    "config-vocabulary": ("tiny-chat", changed("config.json", vocab_size=10**9), "WeightsNotFound", "parameters"),
    "config-width": ("tiny-embed", changed("config.json", intermediate_size=10**9), "WeightsNotFound", "parameters"),
    "config-quantised": ("tiny-chat", changed("config.json", quantization_config=5), "UnsupportedModel", "config-quantised"),
    "generation-list": ("tiny-chat", written("generation_config.json", b"[]"), "UnsupportedModel", "generation-list"),
    "generation-end": ("tiny-chat", written("generation_config.json", b'{"eos_token_id": ["a"]}'), "UnsupportedModel", "generation-end"),
    "normalizer-doubles": ("tiny-embed", doubling("normalizer"), "UnsupportedModel", "its normalizer makes texts more than 64 times"),
    "normalizer-nested": ("tiny-chat", changed("tokenizer.json", normalizer={"normalizers": [{"normalizers": [
                          {"pattern": {"Regex": ""}, "content": "e" * 64}]}]}), "UnsupportedModel", "its normalizer makes"),
    "normalizer-map": ("tiny-chat", changed("tokenizer.json", normalizer={"type": "Precompiled", "precompiled_charsmap":
                       b64encode(bytes(4) + b"Q" * 9999 + b"\0").decode()}), "UnsupportedModel", "its normalizer makes"),
    "decoder-doubles": ("tiny-chat", doubling("decoder"), "UnsupportedModel", "its decoder makes texts more than 64 times"),
    "processor-adds": ("tiny-chat", crowded, "UnsupportedModel", "adds more than 4096 tokens"),
    "vocabulary-long": ("tiny-chat", changed("tokenizer.json", **{f"model__vocab__{'Q' * 5000}": 5}), "UnsupportedModel",
                        "longer than 4096 characters"),
    "weights-cut": ("tiny-chat", lambda folder: written("model.safetensors", (folder / "model.safetensors").read_bytes()[:5000])(folder),
                    "WeightsNotFound", "are damaged"),
    "weights-empty": ("tiny-embed", written("model.safetensors", b""), "WeightsNotFound", "are damaged"),
    "weights-head": ("tiny-chat", written("model.safetensors", struct.pack("<Q", 2**60) + b"{}"), "WeightsNotFound", "are damaged"),
    "weights-huge": ("tiny-embed", written("model.safetensors", HUGE), "WeightsNotFound", "are damaged"),
    "weights-pickled": ("tiny-chat", lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
                        "WeightsNotFound", "no .safetensors file"),
    "pooling-list": ("tiny-embed", written("1_Pooling/config.json", b"[]"), "UnsupportedModel", "of 1_Pooling is not an object"),
    "modules-cut": ("tiny-embed", written("modules.json", b"{"), "UnsupportedModel", "modules.json of modules-cut is no JSON"),
    "modules-words": ("tiny-embed", written("modules.json", b'["Pooling"]'), "UnsupportedModel", "no module"),
    "modules-outside": ("tiny-embed", written("modules.json", WRONG_MODULE), "UnsupportedModel", "outside of its folder"),
    "lengths": ("tiny-embed", written("sentence_bert_config.json", b'{"max_seq_length": -5}'), "UnsupportedModel", "texts of -5 tokens"),
    "labels-word": ("tiny-classify", changed("config.json", id2label="x"), "UnsupportedModel", "labels-word"),
    "labels-other": ("tiny-classify", changed("config.json", id2label={"0": 5, "7": "x"}), "UnsupportedModel", "labels-other"),
    "images-list": ("tiny-vision", written("preprocessor_config.json", b"[]"), "UnsupportedModel", "images-list"),
}  # fmt: skip


@pytest.fixture(scope="module")
def server(settings: Callable[..., ServeSettings], cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server of one good model and all the others, none of which is loaded before it is asked for."""
    root = tmp_path_factory.mktemp("hostile")
    entries: list[dict[str, Any]] = [{"source": "builtin://tiny-chat", "name": "good"}]
    for name, (base, change, _, _) in ROWS.items():
        shutil.copytree(resolve(f"builtin://{base}", cache_dir=cache_dir, progress=lambda step: None), root / name)
        change(root / name)
        entries.append({"source": f"file://{root / name}", "name": name})
    (root / "models.yaml").write_text(yaml.safe_dump({"models": entries}))
    with running(settings((), catalogue=root / "models.yaml")) as server:
        yield server


@pytest.mark.parametrize("name", ROWS)
def test_it_is_refused_with_its_cause_and_the_server_goes_on(server: Running, name: str) -> None:
    _, _, reason, words = ROWS[name]
    assert httpx.post(f"{server.private_url}/admin/models/{name}/load?wait=true", timeout=60).status_code == 202
    shown = httpx.get(f"{server.private_url}/admin/models/{name}").json()
    assert shown["status"] == "failed"
    assert shown["failure"]["reason"] == reason, shown["failure"]
    assert words in shown["failure"]["message"]
    assert shown["failure"]["remedy"]
    assert httpx.get(f"{server.url}/v1/models").status_code == 200
    assert httpx.post(f"{server.url}/v1/chat/completions", json={"model": "good", **CHAT}, timeout=60).status_code == 200


@pytest.mark.parametrize(
    ("base", "path", "body", "param"),
    [
        ("tiny-chat", "v1/chat/completions", {"messages": [{"role": "user", "content": "a" * 40 + "b"}]}, "messages"),
        ("tiny-chat", "v1/responses", {"input": "a" * 40 + "b"}, "input"),
        ("tiny-chat", "v1/completions", {"prompt": "a" * 40 + "b"}, "prompt"),
        ("tiny-chat", "tokenize", {"prompt": "a" * 40 + "b"}, "prompt"),
        ("tiny-embed", "v1/embeddings", {"input": ["Hello", "a" * 40 + "b"]}, "input"),
        ("tiny-embed", "v1/rerank", {"query": "Hello", "documents": ["a" * 40 + "b"]}, "documents"),
        ("tiny-embed", "tokenize", {"prompt": "a" * 40 + "b"}, "prompt"),
    ],
)
def test_a_text_that_a_tokenizer_gives_up_on_is_the_client_s(
    slow: dict[str, Running], base: str, path: str, body: dict[str, Any], param: str
) -> None:
    refused = httpx.post(f"{slow[base].url}/{path}", json={"model": "slow", **body}, timeout=60)
    assert refused.status_code == 400, refused.text
    error = refused.json()["error"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, "invalid_value")
    assert "gives up" in error["message"]
    assert httpx.post(f"{slow[base].url}/tokenize", json={"prompt": "Hello"}).status_code == 200


@pytest.fixture(scope="module")
def slow(settings: Callable[..., ServeSettings], cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Running]]:
    """Models whose tokenizers cut texts by a pattern that takes ever longer for some of them, and is stopped by its library."""
    folders = {}
    for base in ("tiny-chat", "tiny-embed"):
        folders[base] = tmp_path_factory.mktemp("slow") / base
        shutil.copytree(resolve(f"builtin://{base}", cache_dir=cache_dir, progress=lambda step: None), folders[base])
        pattern("(a+)+$")(folders[base])
    named = {base: settings(f"slow=file://{folder}") for base, folder in folders.items()}
    with running(named["tiny-chat"]) as chat, running(named["tiny-embed"]) as embed:
        yield {"tiny-chat": chat, "tiny-embed": embed}
