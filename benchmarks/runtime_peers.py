"""The models and the servers that `runtime.py` compares: how each is made, started, paused and stopped."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from modelyard_runtime.sources.resolve import resolve

SMOLLM2, QWEN = "smollm2-135m", "qwen3-0.6b-shape"
#: Qwen3-0.6B's published configuration.
QWEN_SHAPE = {
    "vocab_size": 151936,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40960,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
    "tie_word_embeddings": True,
    "initializer_range": 0.05,
}


@dataclass(frozen=True)
class Peer:
    """A way to serve a folder of weights. ``model`` is the name that requests give."""

    name: str
    command: list[str]
    ready_path: str
    model: str


def cache_folder() -> Path:
    return Path(os.environ.get("MODELYARD_CACHE_DIR", Path.home() / ".cache" / "modelyard"))


def folder_of(model: str) -> Path:
    """Returns the weights' folder: SmolLM2's real ones, or random ones of the other shape, made once."""
    cache = cache_folder()
    smollm2 = resolve("builtin://smollm2-135m-instruct", cache_dir=cache, progress=lambda step: None)
    return smollm2 if model == SMOLLM2 else _random_qwen(cache / "benchmarks" / QWEN, smollm2)


def _random_qwen(folder: Path, tokenizer: Path) -> Path:
    """Makes a model of Qwen3-0.6B's shape with seeded random weights and SmolLM2's tokenizer.

    Tokens that this tokenizer does not have get scores of 0 and never win, so that every answer is text.
    """
    if (folder / "model.safetensors").is_file():
        return folder
    import torch  # noqa: PLC0415
    from transformers import AutoConfig, AutoModelForCausalLM  # noqa: PLC0415

    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    known = len(json.loads((tokenizer / "tokenizer.json").read_text())["model"]["vocab"])
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen3", **QWEN_SHAPE), dtype=torch.bfloat16)
    with torch.no_grad():
        model.get_input_embeddings().weight[known:] = 0
        model.get_input_embeddings().weight[:3] = 0
    model.generation_config.eos_token_id = model.config.eos_token_id = 2
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(tokenizer / name, folder)
    model.save_pretrained(folder)
    return folder


def ours(folder: Path, port: int, sequences: int, more: list[str]) -> Peer:
    flags = [f"--model=file://{folder}", "--served-model-name=bench", "--dtype=float32", "--host=127.0.0.1", f"--port={port}"]
    flags += ["--metrics-port=0", "--log-level=warning", "--max-model-length=1024", f"--max-concurrent-sequences={sequences}", *more]
    return Peer("modelyard", [sys.executable, "-m", "modelyard_runtime.main", "serve", *flags], "/ready", "bench")


def transformers_serve(folder: Path, port: int) -> Peer:
    flags = ["serve", str(folder), "--continuous-batching", "--device", "cpu", "--dtype", "float32", "--attn-implementation", "sdpa"]
    flags += ["--cb-num-blocks", "32", "--cb-max-batch-tokens", "512", "--host", "127.0.0.1", "--port", str(port)]
    return Peer("transformers serve", [str(Path(sys.executable).with_name("transformers")), *flags], "/health", str(folder))


def llama_cpp(python: str, gguf: Path, port: int) -> Peer:
    flags = ["-m", "llama_cpp.server", "--model", str(gguf), "--model_alias", "bench", "--host", "127.0.0.1", "--port", str(port)]
    flags += [
        "--interrupt_requests",
        "False",
        "--n_ctx",
        "1024",
        "--n_threads",
        str(os.cpu_count()),
        "--n_threads_batch",
        str(os.cpu_count()),
    ]
    return Peer("llama-cpp-python", [python, *flags], "/v1/models", "bench")


def has_llama_cpp(python: str) -> bool:
    return subprocess.run([python, "-c", "import llama_cpp.server"], capture_output=True, check=False).returncode == 0


class Running:
    """A server's processes, which can be paused: what waits beside another's measurement must not take its cores."""

    def __init__(self, peer: Peer, process: subprocess.Popen[bytes]):
        self.peer = peer
        self._process = psutil.Process(process.pid)

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def seconds(self) -> float:
        """Returns the processor time that it has used."""
        return sum(sum(process.cpu_times()[:2]) for process in self._all())

    def _signal(self, number: int) -> None:
        for process in self._all():
            process.send_signal(number)

    def _all(self) -> list[psutil.Process]:
        return [self._process, *self._process.children(recursive=True)]


@contextmanager
def running(peer: Peer) -> Iterator[Running]:
    """Runs a server, its output in a file that is shown when it ends by itself."""
    with tempfile.TemporaryFile("w+") as log:
        child = subprocess.Popen(peer.command, stdout=log, stderr=subprocess.STDOUT, env=os.environ | {"HF_HUB_OFFLINE": "1"})
        server = Running(peer, child)
        try:
            yield server
        finally:
            ended = child.poll()
            if ended is None:
                server.resume()
            child.terminate()
            try:
                child.wait(timeout=30)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            if ended is not None:
                log.seek(0)
                print(f"{peer.name} ended with {ended}:\n{log.read()[-4000:]}", file=sys.stderr)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def write_gguf(folder: Path, target: Path) -> Path:
    """Writes a Llama model's folder as GGUF in float32, with what llama.cpp wants to know of it.

    llama.cpp turns pairs of neighbouring numbers where Transformers turns halves, so rows of the query and key weights change places.
    """
    if target.is_file():
        return target
    import gguf  # noqa: PLC0415
    import torch  # noqa: PLC0415
    from transformers import AutoModelForCausalLM  # noqa: PLC0415

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config = model.config
    target.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(target.with_suffix(".part"), "llama")
    _describe(writer, config, folder)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
        turned = weight.view(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape) if heads else weight
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), turned.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    target.with_suffix(".part").rename(target)
    return target


def _describe(writer: Any, config: Any, folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    added = {token["id"]: token["content"] for token in tokenizer["added_tokens"]}
    ids = {index: token for token, index in tokenizer["model"]["vocab"].items()} | added
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([ids[index] for index in range(config.vocab_size)])
    writer.add_token_types([3 if index in added else 1 for index in range(config.vocab_size)])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template((folder / "chat_template.jinja").read_text())
