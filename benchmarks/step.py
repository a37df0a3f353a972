"""Where a step of the engine goes: milliseconds of products, attention, the KV cache's writes, small operations, and Python between them.

Sequences of about 120 tokens decode together, without HTTP; a prompt is read in a step of its own. A step is timed as it is; what its
parts take is PyTorch's profiler's, of as many more steps, and Python is the rest. All in wall-clock time of the engine's thread.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from modelyard_runtime.hardware import set_waiting
from modelyard_runtime.models.quantising import Quantization

set_waiting("auto")

import torch  # noqa: E402 - its threads wait as they were told before
from modelyard_runtime.engine.base import GenerationRequest, SamplingParams  # noqa: E402
from modelyard_runtime.engine.capacity import choose_capacity  # noqa: E402
from modelyard_runtime.engine.core import Core  # noqa: E402
from modelyard_runtime.engine.probe import adopt  # noqa: E402
from modelyard_runtime.engine.sequence import Sequence  # noqa: E402
from modelyard_runtime.engine.settings import EngineSettings  # noqa: E402
from modelyard_runtime.models.loading import load_causal_lm  # noqa: E402
from modelyard_runtime.sources.resolve import resolve  # noqa: E402
from torch.profiler import ProfilerActivity, profile  # noqa: E402

PARTS = {"products": ("linear", "mm", "matmul"), "attention": ("scaled_dot_product",), "writes": ("index_copy", "index_put")}
LENGTH = 110


class Steps:
    """A core that steps when told to."""

    def __init__(self, folder: Path, quantization: Quantization, prompt: int):
        model = load_causal_lm(folder, dtype="auto", device="cpu", progress=lambda fraction: None, quantization=quantization)
        settings = EngineSettings(max_model_length=1024, prefix_caching=False, prefill_tokens=prompt, prefill_tokens_together=0)
        self._core = Core(model, settings, choose_capacity(model, settings, adopt(model)))
        self._random = random.Random(1)
        self._tokens = model.vocabulary_size

    def timed(self, count: int) -> Iterator[float]:
        """Takes steps; yields the seconds of each."""
        for _ in range(count):
            began = time.perf_counter()
            self._core.step()
            yield time.perf_counter() - began

    def decoding(self, rows: int, steps: int) -> None:
        """Makes the next steps those of ``rows`` sequences whose prompts are read."""
        self._submit(rows, LENGTH, 2 * steps + 4 * rows)
        while self._core.scheduler.waiting or any(s.remaining > 1 for s in self._core.scheduler.running):
            self._core.step()

    def reading(self, tokens: int, steps: int) -> None:
        """Makes each of the next steps one that reads a prompt."""
        self._submit(2 * steps, tokens, 1)

    def finish(self) -> None:
        """Steps until nothing is left."""
        while self._core.busy:
            self._core.step()

    def _submit(self, count: int, length: int, new_tokens: int) -> None:
        sampling = SamplingParams(temperature=0.0, max_tokens=new_tokens, ignore_eos=True)
        for index in range(count):
            prompt = [self._random.randrange(self._tokens) for _ in range(length)]
            self._core.scheduler.add(Sequence.of(GenerationRequest(f"step-{index}", prompt, sampling)))


def parts(steps: Steps, count: int) -> dict[str, float]:
    """Returns the milliseconds per step of each part, and of all operations together as ``all``."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for _ in steps.timed(count):
            pass
    events = profiled.key_averages()
    spent = {name: sum(e.self_cpu_time_total for e in events if any(word in e.key for word in words)) for name, words in PARTS.items()}
    return {name: total / count / 1000 for name, total in (spent | {"all": sum(e.self_cpu_time_total for e in events)}).items()}


def row(steps: Steps, label: str, count: int) -> str:
    """Returns a line of the table."""
    whole = 1000 * statistics.median(steps.timed(count))
    spent = parts(steps, count)
    known = sum(spent[name] for name in PARTS)
    small = spent["all"] - known
    columns = (whole, *(spent[name] for name in PARTS), small, max(0.0, whole - spent["all"]))
    return f"{label:18}" + "".join(f"{value:14.1f}" for value in columns)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="builtin://smollm2-135m-instruct")
    parser.add_argument("--quantization", choices=get_args(Quantization), default="none")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--prompt", type=int, default=128, help="tokens of the prompt that is read in one step")
    parser.add_argument("--steps", type=int, default=12)
    arguments = parser.parse_args()
    cache = Path(os.environ.get("MODELYARD_CACHE_DIR", Path.home() / ".cache" / "modelyard"))
    steps = Steps(resolve(arguments.model, cache_dir=cache, progress=lambda step: None), arguments.quantization, arguments.prompt)
    print(f"{'milliseconds':18}" + "".join(f"{name:>14}" for name in ("step", *PARTS, "small", "Python")), flush=True)
    for rows in arguments.rows:
        steps.decoding(rows, arguments.steps)
        print(row(steps, f"{rows} rows", arguments.steps), flush=True)
        steps.finish()
    steps.reading(arguments.prompt, arguments.steps)
    print(row(steps, f"{arguments.prompt} of a prompt", arguments.steps), flush=True)


if __name__ == "__main__":
    main()
