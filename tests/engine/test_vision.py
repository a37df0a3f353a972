"""Images in prompts: the engine says what `model.generate` says, in any company."""

import asyncio
import base64
import io
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import pytest
import torch
from modelyard.api.errors import InvalidRequest
from modelyard_runtime.engine.base import GenerationRequest, SamplingParams
from modelyard_runtime.errors import UnsupportedModel
from modelyard_runtime.leases import leasing
from modelyard_runtime.models.prompt import Picture
from modelyard_runtime.models.vision import Pixels, Vision
from modelyard_runtime.serving.bounds import Bounds
from modelyard_runtime.serving.sight import Sight
from modelyard_runtime.settings import ServeSettings
from modelyard_runtime.sources.tiny_vision import make_vision
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoTokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vision")
    make_vision(path)
    return path


@pytest.fixture(scope="module")
def plain(folder: Path) -> Any:
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()


def picture(seed: int, width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


def data_url(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def cut(vision: Vision, images: list[Image.Image]) -> Pixels:
    return Pixels.joined([vision.pixels(image, "url") for image in images])


def prompt_of(folder: Path, images: int, text: str) -> list[int]:
    parts = [{"type": "image"}] * images + [{"type": "text", "text": text}]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return tokenizer.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True, return_dict=False)


def request(vision: Vision, ids: list[int], images: list[Image.Image], new_tokens: int = 12) -> GenerationRequest:
    sampling = SamplingParams(temperature=0.0, max_tokens=new_tokens, ignore_eos=True)
    if not images:
        return GenerationRequest("text", ids, sampling)
    pixels = cut(vision, images)
    expanded = vision.expand(ids, pixels)
    return GenerationRequest("images", expanded, sampling, media=vision.media(expanded, pixels))


def expected(plain: Any, vision: Vision, ids: list[int], images: list[Image.Image], new_tokens: int = 12) -> list[int]:
    more: dict[str, Any] = {}
    if images:
        pixels = cut(vision, images)
        ids = vision.expand(ids, pixels)
        more = {
            "pixel_values": pixels.values,
            "image_grid_thw": pixels.grids,
            "mm_token_type_ids": (torch.tensor([ids]) == vision.token).int(),
        }
    prompt = torch.tensor([ids])
    plain.generation_config.eos_token_id = None
    out = plain.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=new_tokens, do_sample=False, **more)
    return out[0, len(ids) :].tolist()


async def answer(engine: Any, asked: GenerationRequest) -> tuple[list[int], int]:
    events = [event async for event in engine.submit(asked)]
    return [event.token_id for event in events], events[0].cached_tokens


async def test_images_and_texts_in_one_batch_equal_generate(kit: Any, folder: Path, plain: Any) -> None:
    vision = Vision.of(folder, plain)
    cases = [
        (prompt_of(folder, 1, "what is it"), [picture(1, 60, 40)]),
        (prompt_of(folder, 2, "and these"), [picture(2, 30, 64), picture(3, 48, 48)]),
        (prompt_of(folder, 0, "no image at all, only many words to read in parts"), []),
        (prompt_of(folder, 1, "what is it"), [picture(4, 60, 40)]),
    ]
    wanted = [expected(plain, vision, *case) for case in cases]
    async with kit.engine(folder, prefill_tokens=16, prefill_tokens_beside_decodes=7, speculative_tokens=2) as engine:
        ours = Vision.of(folder, engine._core._model.model)
        got = await asyncio.gather(*(answer(engine, request(ours, *case)) for case in cases))
    assert [tokens for tokens, _ in got] == wanted
    assert wanted[0] != wanted[3]


async def test_a_prefix_is_shared_with_the_same_image_and_not_with_another(kit: Any, folder: Path, plain: Any) -> None:
    ids = prompt_of(folder, 1, "what is it")
    async with kit.engine(folder) as engine:
        ours = Vision.of(folder, engine._core._model.model)
        first, cached = await answer(engine, request(ours, ids, [picture(1, 60, 40)]))
        assert cached == 0
        again, cached = await answer(engine, request(ours, ids, [picture(1, 60, 40)]))
        assert (again, cached > 0) == (first, True)
        other, cached = await answer(engine, request(ours, ids, [picture(2, 60, 40)]))
        assert (other != first, cached) == (True, 0)


def test_placeholders_must_match_the_images(folder: Path, plain: Any) -> None:
    vision = Vision.of(folder, plain)
    pixels = vision.pixels(picture(1, 32, 32), "url")
    with pytest.raises(InvalidRequest, match="2 image placeholders for 1 images"):
        vision.expand([5, vision.token, vision.token], pixels)
    with pytest.raises(InvalidRequest, match="differ by less than"):
        vision.pixels(Image.new("RGB", (1000, 4)), "url")


class Watched(Vision):
    """Counts the decoded images that there are at once."""

    most = 0

    def __init__(self, *parts: Any):
        super().__init__(*parts)
        self._there: WeakValueDictionary[int, Image.Image] = WeakValueDictionary()

    def pixels(self, image: Image.Image, param: str) -> Pixels:
        self._there[id(image)] = image
        self.most = max(self.most, len(self._there))
        return super().pixels(image, param)


async def test_no_more_images_are_decoded_than_there_are_threads(folder: Path, plain: Any) -> None:
    vision = Watched.of(folder, plain)
    sight = Sight(vision, ServeSettings(model="builtin://tiny-vision"), Bounds(8192, 100), decoders=1)
    pictures = [Picture(data_url(picture(seed, 40, 40)), f"url {seed}") for seed in range(4)]
    ids = prompt_of(folder, 4, "what are they")
    try:
        with leasing():
            looks = await asyncio.gather(*(sight.look(ids, pictures) for _ in range(3)))
    finally:
        sight.close()
    assert [len(pixels.grids) for _, pixels in looks] == [4, 4, 4]
    assert vision.most == 1


def test_a_model_without_an_image_processor_is_named(folder: Path, plain: Any, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="image processor"):
        Vision.of(tmp_path, plain)
