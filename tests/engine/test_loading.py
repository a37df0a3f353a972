"""Loading a folder: what is missing or wrong is named, and what is loaded is exact."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from modelyard_runtime.engine.blocks import BLOCK
from modelyard_runtime.engine.capacity import fit
from modelyard_runtime.engine.settings import EngineSettings
from modelyard_runtime.errors import ArgumentsInvalid, OutOfMemory, UnsupportedModel, WeightsNotFound
from modelyard_runtime.hardware import available_memory, has_matrix_units, usable_cores
from modelyard_runtime.models.loading import choose_device, choose_dtype, load_causal_lm
from torch import nn

GIB = 2**30


def load(folder: Path) -> Any:
    return load_causal_lm(folder, dtype="float32", device="cpu", progress=lambda fraction: None)


@pytest.fixture
def folder(kit: Any, tmp_path: Path) -> Path:
    return Path(shutil.copytree(kit.folder("llama"), tmp_path / "model"))


def test_a_folder_is_loaded_with_what_serves_it(folder: Path) -> None:
    seen: list[float] = []
    loaded = load_causal_lm(folder, dtype="auto", device="cpu", progress=seen.append)
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (0.0, 1.0)
    assert loaded.dtype == (torch.bfloat16 if has_matrix_units() else torch.float32)
    assert loaded.context_length == 512
    assert loaded.eos_token_ids == {2}
    assert loaded.chat_template
    assert not any(type(module) is nn.Linear for module in loaded.model.modules())
    assert torch.get_num_threads() == usable_cores()


@pytest.mark.parametrize(
    ("file", "failure", "words"),
    [
        ("config.json", WeightsNotFound, "no config.json"),
        ("model.safetensors", WeightsNotFound, "no .safetensors file"),
        ("tokenizer.json", WeightsNotFound, "tokenizer of model cannot be read"),
    ],
)
def test_a_missing_file_is_named(folder: Path, file: str, failure: type[Exception], words: str) -> None:
    (folder / file).unlink()
    with pytest.raises(failure, match=words):
        load(folder)


def test_weights_cut_short_are_refused(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises((WeightsNotFound, UnsupportedModel), match="model"):
        load(folder)


@pytest.mark.parametrize("change", [{"model_type": "novel"}, {"hidden_size": "many"}, {"num_attention_heads": 0}])
def test_a_config_that_is_not_understood_is_refused(folder: Path, change: dict[str, Any]) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UnsupportedModel, match="model"):
        load(folder)


@pytest.mark.parametrize(("file", "failure"), [("config.json", UnsupportedModel), ("tokenizer_config.json", WeightsNotFound)])
def test_files_nested_without_end_are_refused(folder: Path, file: str, failure: type[Exception]) -> None:
    (folder / file).write_text('{"a":' * 100_000)
    with pytest.raises(failure, match="model"):
        load(folder)


def test_more_layers_than_there_are_weights_for_are_not_made(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_hidden_layers": 100_000}))
    with pytest.raises(WeightsNotFound, match="asks for 100000 layers"):
        load(folder)


def test_weights_of_other_shapes_than_the_config_says_are_refused(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"intermediate_size": 97}))
    with pytest.raises(UnsupportedModel, match="cannot be loaded"):
        load(folder)


def test_weights_that_the_config_wants_and_the_file_lacks_are_named(folder: Path) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"num_hidden_layers": 4, "layer_types": None}))
    with pytest.raises(WeightsNotFound, match=r"model\.layers\.3"):
        load(folder)


def test_dtypes_and_devices_that_are_not_there_are_refused() -> None:
    with pytest.raises(ArgumentsInvalid, match="float8"):
        choose_dtype("float8", torch.device("cpu"))
    assert choose_dtype("bfloat16", torch.device("cpu")) == torch.bfloat16
    assert choose_dtype("auto", torch.device("cuda")) == torch.bfloat16
    if not torch.cuda.is_available():
        with pytest.raises(ArgumentsInvalid, match="no CUDA device"):
            choose_device("cuda")


@pytest.mark.parametrize(
    ("cores", "environment", "spins"),
    [
        ("shared", {}, "10000"),
        ("own", {}, None),
        ("shared", {"GOMP_SPINCOUNT": "7"}, "7"),
        ("shared", {"OMP_WAIT_POLICY": "active"}, None),
    ],
)
def test_threads_wait_as_the_cores_allow(cores: str, environment: dict[str, str], spins: str | None) -> None:
    program = (
        f"import os; from modelyard_runtime.hardware import set_waiting; set_waiting({cores!r}); print(os.environ.get('GOMP_SPINCOUNT'))"
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GOMP_", "OMP_"))}
    done = subprocess.run([sys.executable, "-c", program, cores], env=kept | environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(spins)


def test_the_machine_has_cores_and_memory() -> None:
    assert usable_cores() >= 1
    assert available_memory() > 0


@pytest.mark.parametrize(
    ("context", "settings", "memory", "sequences", "length"),
    [
        (8192, EngineSettings(), 100 * GIB, 32, 8192),
        (131072, EngineSettings(), 100 * GIB, 32, 8192),
        (512, EngineSettings(), 100 * GIB, 32, 512),
        (8192, EngineSettings(), 2 * GIB, 32, 4096),
        (8192, EngineSettings(), 60 * 2**20, 32, 256),
        (8192, EngineSettings(max_model_length=2048), 2 * GIB, 32, 2048),
        (8192, EngineSettings(max_concurrent_sequences=8), 2 * GIB, 8, 4096),
        (8192, EngineSettings(max_model_length=100_000), 100 * GIB, 32, 8192),
        (8192, EngineSettings(max_model_length=8192, max_concurrent_sequences=64), 2 * GIB, 64, 8192),
        (8192, EngineSettings(max_model_length=8192, kv_cache_tokens=10_000), 2 * GIB, 32, 8192),
        (8192, EngineSettings(kv_cache_tokens=10_000), 2 * GIB, 32, 2048),
        (100, EngineSettings(max_concurrent_sequences=1), 2 * GIB, 1, 100),
    ],
)
def test_the_cache_fits_the_memory(context: int, settings: EngineSettings, memory: int, sequences: int, length: int) -> None:
    got = fit(context, settings, 46_080, memory)
    assert (got.sequences, got.length) == (sequences, length)
    assert got.total_bytes <= memory
    assert got.blocks * BLOCK >= got.length


def test_where_memory_is_not_elastic_each_sequence_has_its_own() -> None:
    got = fit(8192, EngineSettings(max_model_length=2048), 46_080, 2 * GIB, elastic=False)
    assert (got.sequences, got.slots, got.blocks * BLOCK) == (9, 9, 9 * 2048)
    with pytest.raises(OutOfMemory):
        fit(8192, EngineSettings(max_model_length=8192, max_concurrent_sequences=64), 46_080, 2 * GIB, elastic=False)


@pytest.mark.parametrize(
    "settings", [EngineSettings(max_model_length=100_000), EngineSettings(max_model_length=8192, kv_cache_tokens=8000)]
)
def test_a_cache_that_does_not_fit_says_what_it_needs(settings: EngineSettings) -> None:
    with pytest.raises(OutOfMemory, match=r"the KV cache needs .* GiB") as failure:
        fit(100_000, settings, 46_080, 2 * GIB)
    assert "maxModelLength" in failure.value.remedy
