"""Images in chat: what clients send, what they hear, and what is refused."""

import base64
import io
import re
from collections.abc import Iterator

import httpx
import numpy as np
import openai
import pytest
from PIL import Image

from .conftest import Running, running, wait_until


def url(seed: int = 1, size: tuple[int, int] = (60, 40), kind: str = "png") -> str:
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def ask(*parts: str, role: str = "user") -> list[dict]:
    made = [{"type": "image_url", "image_url": {"url": part}} if ":" in part else {"type": "text", "text": part} for part in parts]
    return [{"role": role, "content": made}]


@pytest.fixture(scope="module")
def seeing(settings) -> Iterator[Running]:
    with running(settings(model="builtin://tiny-vision", max_images=2)) as server:
        yield server


def answer(client: openai.OpenAI, messages: list[dict], **more) -> tuple[str, openai.types.CompletionUsage]:
    made = client.chat.completions.create(model="tiny-vision", messages=messages, temperature=0, max_tokens=10, **more)
    return made.choices[0].message.content, made.usage


def test_answers_depend_on_the_image(seeing):
    client = seeing.openai()
    first, usage = answer(client, ask(url(1), "what is it"))
    assert answer(client, ask(url(1), "what is it"))[0] == first
    assert answer(client, ask(url(2), "what is it"))[0] != first
    assert usage.prompt_tokens > answer(client, ask("what is it"))[1].prompt_tokens + 5


def test_the_place_of_an_image_matters_and_several_fit_one_message(seeing):
    client = seeing.openai()
    assert answer(client, ask(url(1), "and", url(2)))[0] != answer(client, ask(url(2), "and", url(1)))[0]


def test_an_image_is_found_in_the_prefix_cache_and_another_is_not(seeing):
    client = seeing.openai()
    messages = ask("see here a new image", url(77, (64, 64)), "what is it")
    assert answer(client, messages)[1].prompt_tokens_details.cached_tokens < 32
    assert answer(client, messages)[1].prompt_tokens_details.cached_tokens >= 16
    assert client.models.list().data[0].model_extra["capabilities"] == ["chat", "completions", "vision"]


def test_images_stream_too(seeing):
    chunks = seeing.openai().chat.completions.create(
        model="tiny-vision", messages=ask(url(1), "what is it"), temperature=0, max_tokens=10, stream=True
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == answer(seeing.openai(), ask(url(1), "what is it"))[0]


@pytest.mark.parametrize("kind", ["jpeg", "webp", "gif"])
def test_formats(seeing, kind):
    assert answer(seeing.openai(), ask(url(1, kind=kind), "what is it"))[0]


BAD = {
    "no image": ("data:image/png;base64,aGVsbG8=", "messages[0].content[0].image_url.url", "image"),
    "no base64": ("data:image/png;base64,*", "messages[0].content[0].image_url.url", "base64"),
    "a host": ("https://example.com/a.png", "messages[0].content[0].image_url.url", "--media-hosts"),
    "a file": ("file:///etc/passwd", "messages[0].content[0].image_url.url", "http"),
    "too thin": (url(1, (4000, 4)), "messages[0].content[0].image_url.url", "sides differ"),
}


@pytest.mark.parametrize(("sent", "param", "words"), BAD.values(), ids=BAD.keys())
def test_what_is_no_image_is_refused(seeing, sent, param, words):
    with pytest.raises(openai.BadRequestError) as caught:
        answer(seeing.openai(), ask(sent, "what is it"))
    assert caught.value.param == param
    assert words in caught.value.message
    assert answer(seeing.openai(), ask(url(1), "what is it"))[0]


MISPLACED = {
    "in a system message": (ask(url(), role="system"), "messages[0].content", "only messages of the user"),
    "too many": (ask(url(1), url(2), url(3)), "messages[0].content[2].image_url.url", "2 images"),
    "another kind": ([{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}], "messages[0].content", "no other parts"),
    "a bare string": ([{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}], "messages[0].content", "no other parts"),
    "a bad detail": (
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url(), "detail": "best"}}]}],
        "messages[0].content",
        "detail",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("messages", "param", "words"), MISPLACED.values(), ids=MISPLACED.keys())
def test_images_out_of_place_are_refused(seeing, messages, param, words):
    reply = httpx.post(f"{seeing.url}/v1/chat/completions", json={"model": "tiny-vision", "messages": messages})
    error = reply.json()["error"]
    assert (reply.status_code, error["type"]) == (400, "invalid_request_error")
    assert error["param"].startswith(param)
    assert words in error["message"]


def test_images_that_do_not_fit_are_named_before_more_are_read(settings):
    images = [url(seed, (60, 60)) for seed in range(3)]
    with (
        running(settings(model="builtin://tiny-vision", max_model_length=32)) as server,
        pytest.raises(openai.BadRequestError, match="the images up to") as caught,
    ):
        answer(server.openai(), ask(*images, "data:image/png;base64,*"))
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages[0].content[2].image_url.url")


def test_images_take_no_more_memory_than_there_is_for_them(settings):
    """By what one takes, as the refusal says it: two of a request do not fit, and two requests only one after the other."""
    with running(settings(model="builtin://tiny-vision", max_image_memory="100")) as server:
        with pytest.raises(openai.BadRequestError, match="Send fewer or smaller ones") as caught:
            answer(server.openai(), ask(url(1), "what is it"))
        assert (caught.value.code, caught.value.param) == ("images_too_large", "messages[0].content[0].image_url.url")
        one = int(re.findall(r"take (\d+) bytes", caught.value.message)[0])
    with running(settings(model="builtin://tiny-vision", max_image_memory=str(one))) as server:
        client, image = server.openai(), ask(url(1), "what is it")
        with pytest.raises(openai.BadRequestError, match=f"take {2 * one} bytes"):
            answer(client, ask(url(1), "and", url(2)))
        # Cut up, an image of this model is larger than what its tower makes of it: that alone is held while the answer is written.
        endless = {"max_tokens": 2000, "extra_body": {"ignore_eos": True}, "stream": True, "temperature": 0}
        with client.chat.completions.create(model="tiny-vision", messages=image, **endless) as stream:
            next(iter(stream))
            with pytest.raises(openai.InternalServerError) as refused:
                answer(client, image)
            assert (refused.value.status_code, refused.value.code) == (503, "overloaded")
            assert refused.value.response.headers["retry-after"] == "1"
        wait_until(lambda: server.metric("num_requests_running") == 0, "the engine let go")
        for _ in range(3):
            assert answer(client, image)[0]


def test_a_placeholder_in_a_text_is_text(seeing):
    client = seeing.openai()
    assert answer(client, ask("a <|image_pad|> is no image"))[0]
    assert answer(client, ask(url(1), "a <|image_pad|> is no image"))[0]


def test_a_model_without_eyes_says_so(settings):
    with running(settings(model="builtin://tiny-chat")) as server, pytest.raises(openai.BadRequestError, match="takes text only") as caught:
        server.openai().chat.completions.create(model="tiny-chat", messages=ask(url(), "what"))
    assert caught.value.param == "messages[0].content[0].image_url.url"
