"""Keys and values in slots, in pages, and in pages with CUDA graphs: SmolLM2, greedy, tokens per second, and whether answers agree.

Questions that begin alike are answered one after another and all at once, by an engine of each kind over the same weights. On a GPU it
tells what paged attention and graphs gain there; on a processor, which has no graphs, what gathering pages costs. An answer agrees as far
as its tokens are those from slots; in bfloat16 answers part where two tokens score alike.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from pathlib import Path

from modelyard_runtime.engine.base import GenerationRequest, SamplingParams
from modelyard_runtime.engine.engine import TransformersEngine
from modelyard_runtime.engine.settings import EngineSettings
from modelyard_runtime.models.loading import LoadedModel, load_causal_lm
from modelyard_runtime.sources.resolve import resolve

KINDS: dict[str, dict[str, str]] = {
    "slots": {"kv_cache": "slots", "cuda_graphs": "off"},
    "pages": {"kv_cache": "paged", "cuda_graphs": "off"},
    "pages and graphs": {"kv_cache": "paged", "cuda_graphs": "auto"},
}
SUBJECTS = ("a lighthouse keeper", "two rivers", "the last train", "a clock", "a garden", "the first bread", "a painter", "a thief")
BEGINNING = "You write for children who have just learned to read. Short sentences, plain words, no names. "


async def answer(engine: TransformersEngine, prompt: list[int], new_tokens: int) -> list[int | None]:
    sampling = SamplingParams(temperature=0.0, max_tokens=new_tokens, ignore_eos=True)
    return [event.token_id async for event in engine.submit(GenerationRequest("pages", prompt, sampling))]


async def measure(model: LoadedModel, kind: str, prompts: list[list[int]], new_tokens: int) -> tuple[float, float, list[list[int | None]]]:
    """Returns tokens per second alone and together, and the answers."""
    settings = EngineSettings(max_model_length=2048, max_concurrent_sequences=len(prompts), **KINDS[kind])
    engine = TransformersEngine(model, settings)
    engine.start()
    await engine.warm_up()
    began = time.perf_counter()
    alone = [await answer(engine, prompt, new_tokens) for prompt in prompts[:4]]
    between = time.perf_counter()
    together = await asyncio.gather(*(answer(engine, prompt, new_tokens) for prompt in prompts))
    ended = time.perf_counter()
    await engine.stop()
    return len(alone) * new_tokens / (between - began), len(prompts) * new_tokens / (ended - between), [*alone, *together]


def agreement(answers: list[list[int | None]], others: list[list[int | None]]) -> float:
    """Returns the share of tokens before the first that differs."""
    pairs = [list(zip(one, other, strict=True)) for one, other in zip(answers, others, strict=True)]
    same = [next((at for at, (a, b) in enumerate(pair) if a != b), len(pair)) for pair in pairs]
    return sum(same) / sum(map(len, pairs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="builtin://smollm2-135m-instruct")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--length", type=int, default=400, help="tokens of a prompt, about")
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--at-once", type=int, default=8)
    arguments = parser.parse_args()
    cache = Path(os.environ.get("MODELYARD_CACHE_DIR", Path.home() / ".cache" / "modelyard"))
    folder = resolve(arguments.model, cache_dir=cache, progress=lambda step: None)
    model = load_causal_lm(folder, dtype=arguments.dtype, device=arguments.device, progress=lambda fraction: None)
    beginning = BEGINNING * (arguments.length // 20)
    texts = [f"{beginning}Write about {SUBJECTS[i % len(SUBJECTS)]}, chapter {i}." for i in range(arguments.at_once)]
    prompts = [model.tokenizer(text)["input_ids"] for text in texts]
    print(f"{model.device}, {model.dtype}, prompts of {len(prompts[0])} tokens, {arguments.new_tokens} new ones", flush=True)
    first: list[list[int | None]] | None = None
    for kind in KINDS if model.device.type == "cuda" else list(KINDS)[:2]:
        alone, together, answers = asyncio.run(measure(model, kind, prompts, arguments.new_tokens))
        first = first or answers
        print(
            f"{kind}: {alone:.1f} tokens/s alone, {together:.1f} for {len(prompts)} at once, {agreement(answers, first):.1%} as from slots",
            flush=True,
        )


if __name__ == "__main__":
    main()
