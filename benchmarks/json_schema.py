"""Structured output: 240 schemas through the engine, how many answers are valid, and what a mask costs beside a step.

Every schema of tests/data/json_schemas.jsonl bounds an answer of the tiny chat model, whose random weights follow nothing but the grammar;
what is finished is judged by the jsonschema package, formats included. Then a real model (SmolLM2) answers some of them, and the work of
its masks (filling, applying, going on by a token) is timed apart and set against its steps, alone and eight at a time.

Prints a table, and last a line `valid <finished answers that are valid, %> share <mask's part of a step, %>`, the larger of the two shares.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import torch
from modelyard_runtime.engine.base import FinishReason, GenerationRequest, SamplingParams
from modelyard_runtime.engine.constraint import Constraint
from modelyard_runtime.engine.engine import TransformersEngine
from modelyard_runtime.engine.settings import EngineSettings
from modelyard_runtime.models.loading import LoadedModel, load_causal_lm
from modelyard_runtime.sources.resolve import resolve
from modelyard_runtime.structured.compiler import GrammarCompiler
from modelyard_runtime.structured.grammar import grammar, json_rule
from modelyard_runtime.structured.matcher import CompiledGrammar
from modelyard_runtime.structured.schema import normalised

ROOT = Path(__file__).parent.parent
SCHEMAS = ROOT / "tests" / "data" / "json_schemas.jsonl"
ENDS = ('"', "}", "]")


@dataclass(frozen=True)
class Answer:
    """An answer in tokens, and whether it came to its end."""

    tokens: list[int]
    finished: bool


@dataclass
class Bench:
    """A model, its engine, and a compiler for its vocabulary."""

    model: LoadedModel
    engine: TransformersEngine
    compiler: GrammarCompiler

    async def compiled(self, schema: dict[str, Any]) -> CompiledGrammar:
        """Returns a schema's grammar."""
        return await self.compiler.compile(grammar(json_rule(normalised(schema))))

    async def answer(self, prompt: str, bound: CompiledGrammar | None, seed: int, most: int, **sampling: Any) -> Answer:
        """Generates after a prompt."""
        ids = self.model.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        params = SamplingParams(seed=seed, max_tokens=most, grammar=bound, ignore_eos=bound is None, **sampling)
        stream = self.engine.submit(GenerationRequest(f"{seed}-{id(params)}", ids, params))
        events = [event async for event in stream]
        tokens = [event.token_id for event in events if event.token_id is not None and not event.ends_text]
        return Answer(tokens, events[-1].finish_reason is FinishReason.STOP)

    def text(self, answer: Answer) -> str:
        """Returns an answer's text."""
        return str(self.model.tokenizer.decode(answer.tokens, skip_special_tokens=True))


@contextmanager
def bench(source: str, cache: Path, sequences: int) -> Iterator[Bench]:
    """Loads a model and makes what runs it."""
    folder = resolve(source, cache_dir=cache, model_dirs=(), token=None, progress=lambda step: None)
    model = load_causal_lm(folder, dtype="float32", device="auto", progress=lambda fraction: None)
    engine = TransformersEngine(model, EngineSettings(max_model_length=2048, max_concurrent_sequences=sequences))
    compiler = GrammarCompiler(model.tokenizer, model.vocabulary_size, model.eos_token_ids, seconds=30.0)
    yield Bench(model, engine, compiler)
    compiler.close()


def load_schemas() -> dict[str, dict[str, Any]]:
    """Returns the schemas by name."""
    rows = [json.loads(line) for line in SCHEMAS.read_text().splitlines()]
    return {row["name"]: row["schema"] for row in rows}


def problem(text: str, schema: dict[str, Any]) -> str | None:
    """Returns why a text is not valid; None when it is."""
    try:
        judge_of = jsonschema.Draft202012Validator
        judge_of(schema, format_checker=judge_of.FORMAT_CHECKER).validate(json.loads(text))
    except (ValueError, jsonschema.ValidationError) as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return None


def endings(model: LoadedModel) -> dict[int, float]:
    """Returns a bias that lets random weights come to an end: what closes is likelier than what goes on."""
    return {model.tokenizer.convert_tokens_to_ids(sign): 12.0 for sign in ENDS}


async def judge(tiny: Bench, schemas: dict[str, dict[str, Any]], seeds: int) -> tuple[int, int, list[str]]:
    """Returns how many answers there are, how many are finished, and what is wrong with those."""
    tiny.engine.start()
    wrong: list[str] = []
    finished = 0
    together = asyncio.Semaphore(16)

    async def one(name: str, seed: int) -> None:
        nonlocal finished
        schema = schemas[name]
        async with together:
            answer = await tiny.answer("Hello", await tiny.compiled(schema), seed, 1500, logit_bias=endings(tiny.model))
        if answer.finished:
            finished += 1
            reason = problem(tiny.text(answer), schema)
            wrong.extend([] if reason is None else [f"{name}: {reason}"])

    await asyncio.gather(*(one(name, seed) for name in schemas for seed in range(seeds)))
    await tiny.engine.stop()
    return len(schemas) * seeds, finished, wrong


async def steps_of(
    real: Bench, bounds: Sequence[CompiledGrammar | None], prompts: Sequence[str], tokens: int
) -> tuple[float, list[Answer]]:
    """Returns seconds per step of answers that run together, without the prompts' time, and the answers."""

    async def run(most: int) -> tuple[float, list[Answer], int]:
        before, begun = real.engine.stats().steps_total, time.perf_counter()
        jobs = [real.answer(prompt, bound, 1, most) for prompt, bound in zip(prompts, bounds, strict=True)]
        answers = list(await asyncio.gather(*jobs))
        return time.perf_counter() - begun, answers, real.engine.stats().steps_total - before

    short_time, _, short_steps = await run(1)
    long_time, answers, long_steps = await run(tokens)
    return max(long_time - short_time, 1e-9) / max(long_steps - short_steps, 1), answers


def mask_seconds(bound: CompiledGrammar, answer: Answer, vocabulary: int) -> list[float]:
    """Returns the seconds of each token's mask: filled, applied to scores, and gone on from."""
    constraint, seconds = Constraint(bound), []
    scores = torch.zeros(vocabulary)
    for token in answer.tokens:
        begun = time.perf_counter()
        constraint.mask(scores)
        constraint.accept(token)
        seconds.append(time.perf_counter() - begun)
        scores.zero_()
    return seconds


async def cost(real: Bench, schemas: dict[str, dict[str, Any]], rounds: int) -> list[tuple[int, float, float, float]]:
    """Returns (sequences at once, step in seconds without masks, a mask's mean and median) for one and for eight at once."""
    real.engine.start()
    names = list(schemas)
    rows = []
    for together in (1, 8):
        steps, masks = [], []
        for turn in range(rounds):
            chosen = names[turn * together : (turn + 1) * together]
            prompts = [f"<|im_start|>user\nGive an example of: {name}<|im_end|>\n<|im_start|>assistant\n" for name in chosen]
            bounds = [await real.compiled(schemas[name]) for name in chosen]
            free, _ = await steps_of(real, [None] * together, prompts, 40)
            _, answers = await steps_of(real, bounds, prompts, 120)
            steps.append(free)
            for bound, answer in zip(bounds, answers, strict=True):
                masks += mask_seconds(bound, answer, real.model.vocabulary_size)
        rows.append((together, statistics.mean(steps), statistics.mean(masks), statistics.median(masks)))
    await real.engine.stop()
    return rows


async def run(arguments: argparse.Namespace) -> bool:
    """Prints the figures; returns whether the bars are met."""
    schemas = load_schemas()
    with torch.inference_mode(), bench("builtin://tiny-chat", arguments.cache_dir, 16) as tiny:
        total, finished, wrong = await judge(tiny, schemas, arguments.seeds)
    print(f"{len(schemas)} schemas, {total} answers of random weights: {finished} finished, {finished - len(wrong)} of them valid")
    print("\n".join(wrong[:20]))
    with torch.inference_mode(), bench("builtin://smollm2-135m-instruct", arguments.cache_dir, 8) as real:
        rows = await cost(real, schemas, arguments.rounds)
    print("\n| sequences | step without masks | masks of a step | a mask: mean | median | share of a step |\n|---|---|---|---|---|---|")
    shares = []
    for together, step, mean, median in rows:
        shares.append(together * mean / (step + together * mean) * 100)
        cells = (
            f"{step * 1e3:.1f} ms",
            f"{together * mean * 1e3:.2f} ms",
            f"{mean * 1e3:.2f} ms",
            f"{median * 1e3:.2f} ms",
            f"{shares[-1]:.1f} %",
        )
        print(f"| {together} | {' | '.join(cells)} |")
    valid = (finished - len(wrong)) / max(finished, 1) * 100
    print(f"\nvalid {valid:.1f} share {max(shares):.1f}")
    return not wrong and max(shares) <= 10


def main() -> None:
    """Runs it; exits with 1 when an answer is not valid or a mask costs more than a tenth of a step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2, help="answers per schema")
    parser.add_argument("--rounds", type=int, default=6, help="turns of the real model, each with other schemas")
    parser.add_argument("--cache-dir", type=Path, default=Path.home() / ".cache" / "modelyard")
    raise SystemExit(0 if asyncio.run(run(parser.parse_args())) else 1)


if __name__ == "__main__":
    main()
