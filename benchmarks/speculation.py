"""What guessing tokens from the text gains or costs: SmolLM2, greedy, one thread, tokens per second of processor time.

Two kinds of prompts: stories, which repeat little, and a text to be copied with a change, which repeats much. Each is answered by an
engine with and without guesses, alone and eight at once. Prints tokens per second, the share of guesses that were right, and the ratio.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from modelyard_runtime.engine.base import GenerationRequest, SamplingParams
from modelyard_runtime.engine.engine import TransformersEngine
from modelyard_runtime.engine.settings import EngineSettings
from modelyard_runtime.models.loading import LoadedModel, load_causal_lm
from modelyard_runtime.sources.resolve import resolve

SUBJECTS = ("a lighthouse keeper", "two rivers", "the last train", "a clock", "a garden", "the first bread", "a painter", "a thief")
TEXT = (
    "The keeper of the north harbour counts the boats each evening. There are twelve boats, and each boat has a name. "
    "The names are written in a blue book, and the blue book lies on the table by the window. "
)
PROMPTS = {
    "stories": [f"Write a long story about {subject}." for subject in SUBJECTS],
    "copies": [f"Repeat this text word for word, but write {subject} in place of the keeper: {TEXT}" for subject in SUBJECTS],
}


async def answer(engine: TransformersEngine, prompt: list[int], new_tokens: int) -> None:
    sampling = SamplingParams(temperature=0.0, max_tokens=new_tokens, ignore_eos=True)
    async for _ in engine.submit(GenerationRequest("speculation", prompt, sampling)):
        pass


async def measure(model: LoadedModel, prompts: list[list[int]], tokens: int, new_tokens: int) -> tuple[float, float]:
    """Returns tokens per second of processor time, and the share of guesses that were right."""
    settings = EngineSettings(max_model_length=1024, prefix_caching=False, speculative_tokens=tokens)
    engine = TransformersEngine(model, settings)
    engine.start()
    await engine.warm_up()
    started = time.process_time()
    await asyncio.gather(*(answer(engine, prompt, new_tokens) for prompt in prompts))
    spent, stats = time.process_time() - started, engine.stats()
    await engine.stop()
    return stats.generation_tokens_total / spent, stats.accepted_tokens_total / max(1, stats.draft_tokens_total)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=4, help="guesses per step and sequence")
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 8])
    arguments = parser.parse_args()
    cache = Path(os.environ.get("MODELYARD_CACHE_DIR", Path.home() / ".cache" / "modelyard"))
    folder = resolve("builtin://smollm2-135m-instruct", cache_dir=cache, progress=lambda step: None)
    model = load_causal_lm(folder, dtype="float32", device="cpu", progress=lambda fraction: None)
    torch.set_num_threads(1)
    for kind, texts in PROMPTS.items():
        messages = [[{"role": "user", "content": text}] for text in texts]
        prompts = [list(model.tokenizer.apply_chat_template(m, add_generation_prompt=True, return_dict=False)) for m in messages]
        for count in arguments.at_once:
            plain, _ = asyncio.run(measure(model, prompts[:count], 0, arguments.new_tokens))
            guessing, right = asyncio.run(measure(model, prompts[:count], arguments.tokens, arguments.new_tokens))
            print(
                f"{kind} x {count}: {plain:.1f} tokens/s, guessing {guessing:.1f}, {right:.0%} right, ratio {guessing / plain:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
