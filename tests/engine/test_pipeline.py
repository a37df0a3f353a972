"""The engine over a pipeline class that comes with the weights: what it takes, what it says, and how its requests end."""

import asyncio
import shutil
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from modelyard_runtime.engine.base import EngineFailed, FinishReason, GenerationRequest, NotHonoured, RequestFailed, SamplingParams
from modelyard_runtime.engine.pipeline import PipelineEngine
from modelyard_runtime.engine.settings import EngineSettings
from modelyard_runtime.errors import OutOfMemory, UnsupportedModel
from modelyard_runtime.models.chat import ChatModel
from modelyard_runtime.models.declared import Declared, declared
from modelyard_runtime.models.loading import LoadedModel, load_causal_lm
from modelyard_runtime.models.pipelines import TextPipeline, make_pipeline, model_class
from modelyard_runtime.models.wording import Wording

#: What pipelines of these tests are made of; ``HOOK`` is called by each of them when it is.
CODE = """
from transformers import Pipeline, TextGenerationPipeline

class Writer(TextGenerationPipeline):
    pass

class Repeater(Pipeline):
    def _sanitize_parameters(self, times=None, **kwargs):
        return {}, {} if times is None else {"times": times}, {}

    def preprocess(self, text):
        return {"text": text}

    def _forward(self, inputs):
        return self.said(inputs["text"])

    def postprocess(self, said):
        return said

    said = staticmethod(lambda text: text)

class Picky(TextGenerationPipeline):
    def _forward(self, inputs, top_k=None, **kwargs):
        if top_k is not None:
            raise ValueError("no top_k here")
        return super()._forward(inputs, **kwargs)

class Silent(Repeater):
    said = staticmethod(lambda text: 7)

class Large(Repeater):
    @staticmethod
    def said(text):
        raise MemoryError

class Broken(Repeater):
    def __init__(self, *args, **kwargs):
        raise ZeroDivisionError("not today")

class Nothing:
    pass
"""
ALL = {"max_new_tokens", "return_full_text", "do_sample", "temperature", "top_p", "top_k", "min_p", "repetition_penalty"}


@pytest.fixture(scope="module")
def folder(kit: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("pipelines") / "with-code"
    shutil.copytree(kit.folder("llama"), made)
    (made / "own.py").write_text(CODE)
    return made


@pytest.fixture(scope="module")
def loaded(folder: Path) -> LoadedModel:
    return load_causal_lm(folder, dtype="float32", device="cpu", progress=lambda fraction: None, plain=True)


def own(name: str) -> Declared:
    return Declared("text-generation", f"own.{name}", ("AutoModelForCausalLM",))


@asynccontextmanager
async def served(
    loaded: LoadedModel, pipeline: TextPipeline, longest: float | None = None
) -> AsyncIterator[tuple[PipelineEngine, ChatModel]]:
    """An engine that is warm, unless its calls are to take longer than ``longest`` seconds, which warm-up may too."""
    bounds = {} if longest is None else {"step_timeout": longest}
    engine = PipelineEngine(loaded, pipeline, EngineSettings(max_model_length=256, **bounds))
    chat = ChatModel(engine, loaded.tokenizer)
    deaths: list[EngineFailed] = []
    engine.start(deaths.append)
    try:
        if longest is None:
            await engine.warm_up()
        yield engine, chat
    finally:
        chat.close()
        await engine.stop()


def request(loaded: LoadedModel, prompt: str = "Hello", **sampling: Any) -> GenerationRequest:
    return GenerationRequest("test", Wording(loaded.tokenizer).tokens(prompt), SamplingParams(**{"temperature": 0.0, **sampling}))


async def said(chat: ChatModel, asked: GenerationRequest, stop: tuple[str, ...] = ()) -> tuple[str, FinishReason | None, int]:
    text, reason, tokens = "", None, 0
    async for delta in chat.generate(asked, stop):
        text, reason, tokens = text + delta.text, delta.finish_reason, delta.completion_tokens
    return text, reason, tokens


async def test_a_pipeline_of_the_librarys_kind_takes_all_settings(folder: Path, loaded: LoadedModel) -> None:
    writer = make_pipeline(folder, own("Writer"), loaded)
    assert writer.takes == ALL
    plain = writer.pipeline("Hello world", max_new_tokens=9, do_sample=False, return_full_text=False)[0]["generated_text"]
    async with served(loaded, writer) as (engine, chat):
        assert (engine.stats().steps_total, engine.adapter_names) == (0, ())
        assert (await said(chat, request(loaded, "Hello world", max_tokens=9)))[0] in plain
        warm = [await said(chat, request(loaded, temperature=1.7, top_k=40, top_p=0.9, seed=seed, max_tokens=6)) for seed in (1, 1, 2)]
        assert warm[0] == warm[1] != warm[2]
        assert (await said(chat, request(loaded, max_tokens=0))) == ("", FinishReason.LENGTH, 0)


async def test_settings_that_it_cannot_run_with_are_not_taken(folder: Path, loaded: LoadedModel) -> None:
    picky = make_pipeline(folder, own("Picky"), loaded)
    assert picky.takes == ALL - {"top_k"}
    async with served(loaded, picky) as (engine, chat):
        assert (await said(chat, request(loaded, max_tokens=3)))[2] > 0
        with pytest.raises(NotHonoured, match="'top_k' cannot be honoured") as refusal:
            engine.submit(request(loaded, temperature=1.0, top_k=3))
        assert refusal.value.param == "top_k"
        engine.check(SamplingParams(temperature=0.0, top_k=3))


async def test_text_is_given_as_it_is_and_within_bounds(folder: Path, loaded: LoadedModel) -> None:
    repeater = make_pipeline(folder, own("Repeater"), loaded)
    assert repeater.takes == frozenset()
    async with served(loaded, repeater) as (_, chat):
        for text in ("Zürich 😀 of\n\n the  world ", "Hello"):
            told, reason, tokens = await said(chat, request(loaded, text, temperature=1.0, max_tokens=100))
            assert (told, reason) == (text, FinishReason.STOP)
            assert tokens == len(Wording(loaded.tokenizer).tokens(text))
        short = await said(chat, request(loaded, "Hello world of the", temperature=1.0, max_tokens=3))
        assert short[1:] == (FinishReason.LENGTH, 3)
        assert "Hello world of the".startswith(short[0])
        assert (await said(chat, request(loaded, "Hello world of the", temperature=1.0, max_tokens=50), (" of",)))[0] == "Hello world"
        with pytest.raises(NotHonoured, match="temperature"):
            await said(chat, request(loaded))


async def test_an_answer_without_text_ends(folder: Path, loaded: LoadedModel) -> None:
    repeater = make_pipeline(folder, own("Repeater"), loaded)
    repeater.pipeline.said = lambda text: {"generated_text": ""}
    async with served(loaded, repeater) as (_, chat):
        assert await said(chat, request(loaded, temperature=1.0)) == ("", FinishReason.STOP, 0)


async def test_a_request_that_nobody_wants_leaves_at_the_models_next_pass(folder: Path, loaded: LoadedModel) -> None:
    writer, began, go_on, passes = make_pipeline(folder, own("Writer"), loaded), asyncio.Event(), threading.Event(), []
    loop = asyncio.get_running_loop()
    async with served(loaded, writer) as (engine, chat):

        def holds(*_: object) -> None:
            passes.append(1)
            loop.call_soon_threadsafe(began.set)
            go_on.wait(60)

        hook = loaded.model.register_forward_hook(holds)
        stream, gone = engine.submit(request(loaded, max_tokens=200)), engine.submit(request(loaded, max_tokens=200))
        await began.wait()
        assert (engine.stats().running, engine.stats().waiting) == (1, 1)
        await stream.aclose()
        await gone.aclose()
        await engine.drain()
        go_on.set()
        last = await said(chat, request(loaded, max_tokens=2))
        hook.remove()
        assert last[2] > 0
        assert len(passes) <= 1 + 2


async def test_a_call_that_fails_fails_alone_and_a_broken_pipeline_is_the_end(folder: Path, loaded: LoadedModel) -> None:
    repeater, broken = make_pipeline(folder, own("Repeater"), loaded), False

    def says(text: str) -> str:
        if broken or "trouble" in text:
            raise ValueError("/where/it/lies")
        return text

    repeater.pipeline.said = says
    async with served(loaded, repeater) as (engine, chat):
        for _ in range(5):
            with pytest.raises(RequestFailed, match=r"failed on this request \(ValueError\)"):
                await said(chat, request(loaded, "trouble", temperature=1.0))
        assert (engine.failure, engine.stats().restarts_total) == (None, 0)
        assert (await said(chat, request(loaded, temperature=1.0)))[0] == "Hello"
        broken = True
        with pytest.raises(EngineFailed, match="ValueError"):
            await said(chat, request(loaded, temperature=1.0))
        with pytest.raises(EngineFailed, match="ValueError"):
            await said(chat, request(loaded, temperature=1.0))
        assert engine.failure is not None


async def test_a_call_that_does_not_end_is_noticed(folder: Path, loaded: LoadedModel) -> None:
    repeater, held = make_pipeline(folder, own("Repeater"), loaded), threading.Event()
    async with served(loaded, repeater, longest=0.3) as (engine, chat):
        repeater.pipeline.said = lambda text: held.wait(60) and text
        with pytest.raises(EngineFailed, match="did not end within"):
            await said(chat, request(loaded, temperature=1.0))
        held.set()
        assert engine.failure is not None


async def test_pipelines_of_two_models_take_turns_and_the_dead_have_none(folder: Path, loaded: LoadedModel) -> None:
    another = load_causal_lm(folder, dtype="float32", device="cpu", progress=lambda fraction: None, plain=True)
    first, second = make_pipeline(folder, own("Writer"), loaded), make_pipeline(folder, own("Writer"), another)
    seeded = request(loaded, temperature=1.7, seed=3, max_tokens=8)
    async with served(loaded, first) as (_, one), served(another, second) as (_, two):
        alone = await said(one, seeded)
        assert await asyncio.gather(*(said(chat, seeded) for chat in (one, two) for _ in range(5))) == [alone] * 10
        third = load_causal_lm(folder, dtype="float32", device="cpu", progress=lambda fraction: None, plain=True)
        repeater, held, began = make_pipeline(folder, own("Repeater"), third), threading.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()
        async with served(third, repeater, longest=0.3) as (stuck, three):

            def holds(text: str) -> str:
                loop.call_soon_threadsafe(began.set)
                held.wait(60)
                return text

            repeater.pipeline.said = holds
            hanging = asyncio.create_task(said(three, request(loaded, temperature=1.0)))
            await began.wait()
            assert await said(one, seeded) == alone
            assert stuck.failure is not None
            with pytest.raises(EngineFailed, match="did not end within"):
                await hanging
            held.set()
        assert await said(two, seeded) == alone


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("Silent", UnsupportedModel, "returns no text, but int"),
        ("Large", OutOfMemory, "does not fit"),
        ("Broken", UnsupportedModel, "ZeroDivisionError: not today"),
        ("Nothing", UnsupportedModel, "is no Pipeline of the library's"),
        ("Missing", UnsupportedModel, "own.Missing fails"),
    ],
)
def test_what_is_no_text_pipeline_is_refused(folder: Path, loaded: LoadedModel, name: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make_pipeline(folder, own(name), loaded)


def test_what_config_json_names() -> None:
    entry = {"impl": "own.Writer", "pt": "AutoModel"}
    assert declared({"custom_pipelines": {"mine": entry}}) == Declared("mine", "own.Writer", ("AutoModel",))
    both = declared({"custom_pipelines": {"mine": {"impl": "own.X"}, "text-generation": entry}, "architectures": ["LlamaModel"]})
    assert both == Declared("text-generation", "own.Writer", ("AutoModel", "LlamaModel"))
    assert both.writes
    for odd in ({}, {"mine": entry, "yours": entry}, {"mine": {"pt": "AutoModel"}}, {"mine": 3}, ["mine"], None):
        assert declared({"custom_pipelines": odd}) is None
    assert model_class(Declared("mine", "own.X", ("Unheard", "AutoModel"))).__name__ == "AutoModel"
    with pytest.raises(UnsupportedModel, match="no class of the library"):
        model_class(Declared("mine", "own.X", ("Unheard", "logging")))


def test_prompts_are_their_text(loaded: LoadedModel) -> None:
    wording, encode = Wording(loaded.tokenizer), loaded.tokenizer
    text = "<|im_start|>user\nZürich 😀<|im_end|>\n"
    assert wording.text(encode(text)["input_ids"]) == text
    apart = encode(text, split_special_tokens=True, add_special_tokens=False)["input_ids"]
    assert apart != encode(text)["input_ids"]
    assert wording.text(apart) is None
    assert wording.text(encode("ð", add_special_tokens=False)["input_ids"][:1]) is None
    assert "".join(piece for _, piece in wording.pieces(text)) == text
    assert wording.pieces("") == []
