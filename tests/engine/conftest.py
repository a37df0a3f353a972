"""Tiny models of real families with seeded random weights, and an engine over them."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from modelyard_runtime.engine.base import EngineFailed, GenerationRequest, SamplingParams, TokenEvent
from modelyard_runtime.engine.engine import TransformersEngine
from modelyard_runtime.engine.settings import EngineSettings
from modelyard_runtime.models.loading import LoadedModel, load_causal_lm
from modelyard_runtime.sources.resolve import resolve
from modelyard_runtime.sources.tiny import make_chat
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

# Time is no property: the machine may be busy.
settings.register_profile("modelyard", deadline=None)
settings.load_profile("modelyard")

_COMMON = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "initializer_range": 0.25,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen3": {},
    "llama": {},
    "gemma2": {"sliding_window": 12, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 10.0, "query_pre_attn_scalar": 16},
    "gemma3_text": {"sliding_window": 12, "sliding_window_pattern": 2, "query_pre_attn_scalar": 16},
    "mistral": {"sliding_window": 10},
    "gpt_oss": {"sliding_window": 8, **_EXPERTS},
}


@dataclass(frozen=True)
class Reference:
    """What `model.generate` says, and by how much its best token led the second best at each step."""

    tokens: list[int]
    gaps: list[float]


@dataclass
class Kit:
    """Makes each family's folder once per test process, and engines over them."""

    root: Path
    families: tuple[str, ...] = tuple(FAMILIES)
    made: dict[str, Path] = field(default_factory=dict)
    deaths: dict[TransformersEngine, "asyncio.Queue[EngineFailed]"] = field(default_factory=dict)

    def folder(self, family: str, **more: Any) -> Path:
        """Returns a folder with config, seeded weights and tokenizer; None takes a size away that the family does not have."""
        if family not in self.made:
            path = self.root / family
            path.mkdir()
            make_chat(path)
            vocabulary = len(AutoTokenizer.from_pretrained(path))
            sizes = {**_COMMON, "vocab_size": vocabulary, **FAMILIES.get(family, {}), **more}
            config = AutoConfig.for_model(family, **{name: value for name, value in sizes.items() if value is not None})
            torch.manual_seed(sum(map(ord, family)))
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
            model.generation_config.eos_token_id = 2
            model.save_pretrained(path)
            self.made[family] = path
        return self.made[family]

    def load(self, model: str | Path) -> LoadedModel:
        """Loads a family's tiny model, or a folder, in float32."""
        folder = model if isinstance(model, Path) else self.folder(model)
        return load_causal_lm(folder, dtype="float32", device="cpu", progress=lambda fraction: None)

    @asynccontextmanager
    async def engine(self, model: str | Path | LoadedModel, **bounds: Any) -> AsyncIterator[TransformersEngine]:
        """An engine that is started and warm, and stopped at the end. Should it die on the way, ``deaths`` is told."""
        loaded = model if isinstance(model, LoadedModel) else self.load(model)
        engine = TransformersEngine(loaded, EngineSettings(**{"max_model_length": 256, "max_concurrent_sequences": 8, **bounds}))
        self.deaths[engine] = asyncio.Queue()
        engine.start(self.deaths[engine].put_nowait)
        try:
            await engine.warm_up()
            yield engine
        finally:
            await engine.stop()
            del self.deaths[engine]

    async def settled(self, engine: TransformersEngine) -> None:
        """Returns when no request is left and the engine's thread has carried out all that was asked before."""
        await engine.drain()
        done, loop = asyncio.Event(), asyncio.get_running_loop()
        engine._inbox.put(lambda: loop.call_soon_threadsafe(done.set))
        await done.wait()

    def request(self, prompt: list[int], **sampling: Any) -> GenerationRequest:
        """A request: greedy and past the end-of-sequence token unless told otherwise."""
        return GenerationRequest("test", prompt, SamplingParams(**{"temperature": 0.0, "ignore_eos": True, **sampling}))

    async def collect(self, engine: TransformersEngine, prompt: list[int], **sampling: Any) -> list[TokenEvent]:
        """Generates to the end."""
        return [event async for event in engine.submit(self.request(prompt, **sampling))]

    async def tokens(self, engine: TransformersEngine, prompt: list[int], **sampling: Any) -> list[int]:
        """Generates to the end; returns the ids."""
        return [event.token_id for event in await self.collect(engine, prompt, **sampling)]

    def references(self, model: str | Path, prompts: list[list[int]], new_tokens: int) -> list[Reference]:
        """Runs plain Transformers, one prompt at a time, float32, with its own attention."""
        folder = model if isinstance(model, Path) else self.folder(model)
        plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        plain.generation_config.eos_token_id = None
        plain.generation_config.pad_token_id = 0
        return [_reference(plain, prompt, new_tokens) for prompt in prompts]


def _reference(plain: Any, prompt: list[int], new_tokens: int) -> Reference:
    ids = torch.tensor([prompt])
    out = plain.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new_tokens,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    best = torch.stack(out.logits)[:, 0].topk(2).values
    return Reference(out.sequences[0, len(prompt) :].tolist(), (best[:, 0] - best[:, 1]).tolist())


@pytest.fixture(scope="session")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    return Kit(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The real chat model, from the model cache or fetched through the project's own sources."""
    cache = Path(os.environ.get("MODELYARD_CACHE_DIR", Path.home() / ".cache" / "modelyard"))
    return resolve("builtin://smollm2-135m-instruct", cache_dir=cache, model_dirs=(), token=None, progress=lambda step: None)
