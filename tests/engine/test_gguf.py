"""GGUF files become folders once, whole or not at all, and mean the same."""

import json
import struct
from pathlib import Path
from typing import Any

import gguf as ggml
import numpy as np
import pytest
import torch
from modelyard_runtime.errors import OutOfMemory, UnsupportedModel, WeightsNotFound
from modelyard_runtime.models.gguf import convert
from modelyard_runtime.models.gguf_head import stored
from modelyard_runtime.progress import Stopped
from transformers import AutoModelForCausalLM, AutoTokenizer

NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """GGUF's order of a rotary projection's rows: pairs side by side instead of halves."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(folder: Path, file: Path, *, scale: float = 1.0, architecture: str = "llama") -> None:
    """Writes a tiny Llama and its tokenizer as a GGUF file of float32 tensors."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = model.config
    writer = ggml.GGUFWriter(file, architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]
    tokens = sorted(vocabulary["vocab"], key=vocabulary["vocab"].__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token.startswith("<|") else 1 for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in vocabulary["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(tokenizer.chat_template)
    for name, tensor in model.state_dict().items():
        writer.add_tensor(gguf_name(name), weights_of(name, tensor.numpy() * scale, config))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_name(name: str) -> str:
    whole = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight", "lm_head.weight": "output.weight"}
    if name in whole:
        return whole[name]
    _, _, layer, part = name.removesuffix(".weight").split(".", 3)
    return f"blk.{layer}.{NAMES[part]}.weight"


def weights_of(name: str, weights: np.ndarray, config: Any) -> np.ndarray:
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    return next((interleaved(weights, count) for part, count in heads.items() if part in name), weights)


@pytest.fixture(scope="module")
def gguf_file(kit: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file: Path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(kit.folder("llama"), file)
    return file


def scores(folder: Path) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=torch.arange(5, 15)[None]).logits
    return logits


def test_a_converted_model_means_the_same(kit: Any, gguf_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[float] = []
    convert(gguf_file, tmp_path / "out", seen.append)
    assert "%|" not in capsys.readouterr().err
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in (tmp_path / "out").iterdir())
    wanted = scores(kit.folder("llama"))
    torch.testing.assert_close(scores(tmp_path / "out"), wanted, atol=2e-2 * float(wanted.abs().max()), rtol=0)
    before, after = (AutoTokenizer.from_pretrained(folder) for folder in (kit.folder("llama"), tmp_path / "out"))
    conversation = [{"role": "user", "content": "Hello world 😀"}]
    assert after.apply_chat_template(conversation, add_generation_prompt=True) == before.apply_chat_template(
        conversation, add_generation_prompt=True
    )
    assert (after.bos_token_id, after.eos_token_id) == (1, 2)


async def test_the_engine_serves_a_converted_model(kit: Any, gguf_file: Path, tmp_path: Path) -> None:
    convert(gguf_file, tmp_path / "out", lambda fraction: None)
    [reference] = kit.references(tmp_path / "out", [[5, 6, 7]], 12)
    async with kit.engine(tmp_path / "out") as engine:
        assert await kit.tokens(engine, [5, 6, 7], max_tokens=12) == reference.tokens


def test_weights_beyond_float16_are_kept_in_float32(kit: Any, tmp_path: Path) -> None:
    file = tmp_path / "big.gguf"
    write_gguf(kit.folder("llama"), file, scale=1e6)
    convert(file, tmp_path / "out", lambda fraction: None)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.dtype == torch.float32
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_what_is_no_gguf_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "page.gguf").write_text("<html>404</html>")
    with pytest.raises(WeightsNotFound, match="not a GGUF file"):
        convert(tmp_path / "page.gguf", tmp_path / "out", lambda fraction: None)
    with pytest.raises(WeightsNotFound, match="cannot be read"):
        convert(tmp_path / "missing.gguf", tmp_path / "out", lambda fraction: None)


def test_a_file_that_ends_too_early_was_not_downloaded_whole(gguf_file: Path, tmp_path: Path) -> None:
    """In its head, in the middle of the weights, and in the last of them."""
    head, whole = tmp_path / "head.gguf", gguf_file.stat().st_size
    for size in (24, 400, whole // 2, whole - 64):
        head.write_bytes(gguf_file.read_bytes()[:size])
        with pytest.raises(WeightsNotFound, match="ends too early") as failure:
            convert(head, tmp_path / "out", lambda fraction: None)
        assert "downloaded whole" in failure.value.remedy
        assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def head(tensors: int, keys: int, rest: bytes) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, keys) + rest


def nested(depth: int) -> bytes:
    """A key whose value is a list in a list in …"""
    return struct.pack("<Q1sI", 1, b"k", 9) + struct.pack("<IQ", 9, 1) * depth


@pytest.mark.parametrize(
    "hostile",
    [
        head(0, 1 << 60, b""),
        head(1 << 60, 0, b""),
        head(0, 1, struct.pack("<Q", 1 << 63)),
        head(0, 2, struct.pack("<Q1sIIQ", 1, b"k", 9, 10, 1 << 62)),
        head(1, 0, struct.pack("<Q1sIQIQ", 1, b"t", 1, 1 << 63, 0, 1 << 63)),
        head(1, 0, struct.pack("<Q1sIQIQ", 1, b"t", 1, 1, 9999, 0)),
        head(1, 0, struct.pack("<Q1sI", 1, b"t", 1 << 31) + bytes(1 << 12)),
        head(0, 1, struct.pack("<Q1sI", 1, b"k", 99)),
        head(0, 1, nested(10_000)),
        head(0, 1, struct.pack("<Q17sII", 17, b"general.alignment", 4, 0)),
    ],
)
def test_a_head_that_makes_no_sense_is_refused(hostile: bytes, tmp_path: Path) -> None:
    file = tmp_path / "hostile.gguf"
    file.write_bytes(hostile)
    with pytest.raises((WeightsNotFound, UnsupportedModel), match=r"hostile\.gguf (ends too early|cannot be converted)"):
        convert(file, tmp_path / "out", lambda fraction: None)
    assert list(tmp_path.iterdir()) == [file]


def test_an_unknown_architecture_leaves_nothing_behind(kit: Any, tmp_path: Path) -> None:
    unknown = tmp_path / "unknown.gguf"
    write_gguf(kit.folder("llama"), unknown, architecture="novel")
    with pytest.raises(UnsupportedModel, match=unknown.name):
        convert(unknown, tmp_path / "out", lambda fraction: None)
    assert not (tmp_path / "out").exists()
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_a_conversion_that_is_stopped_leaves_nothing_behind(gguf_file: Path, tmp_path: Path) -> None:
    def stop(fraction: float) -> None:
        if fraction > 0.7:
            raise Stopped

    with pytest.raises(Stopped):
        convert(gguf_file, tmp_path / "out", stop)
    assert not list(tmp_path.iterdir())


def test_weights_that_do_not_fit_free_memory_are_refused(gguf_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = [tensor.numbers for tensor in stored(gguf_file)]
    monkeypatch.setattr(f"{convert.__module__}.available_memory", lambda: 2 * sum(tensors) + 6 * max(tensors) - 1)
    with pytest.raises(OutOfMemory, match=r"tiny.gguf needs \d+ MiB at least, and \d+ MiB are free"):
        convert(gguf_file, tmp_path / "out", lambda _: None)
    assert not (tmp_path / "out").exists()
