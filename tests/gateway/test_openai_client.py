"""The `openai` package as its users have it."""

import asyncio
import json

import openai
import pytest

CHAT = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "assistant",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hello"}}],
}
EMBEDDINGS = {
    "object": "list",
    "model": "assistant",
    "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}],
    "usage": {"prompt_tokens": 1, "total_tokens": 1},
}


async def runtime(seen, writer):
    request = json.loads(seen.body)
    if request.get("stream"):
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for word in ("Hel", "lo"):
            delta = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "assistant"}
            event = b"data: %b\n\n" % json.dumps(delta | {"choices": [{"index": 0, "delta": {"content": word}}]}).encode()
            writer.write(b"%x\r\n%b\r\n" % (len(event), event))
            await writer.drain()
        writer.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
        return
    body = json.dumps(EMBEDDINGS if seen.target == "/v1/embeddings" else CHAT).encode()
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))


@pytest.fixture
async def client(gateway, replica):
    setup = await gateway(await replica(runtime), model={"aliases": ("gpt-4o-mini",), "keepalive": 0.05})
    async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{setup.gateway.port}/v1", api_key="sk-none", max_retries=0) as one:
        one.setup = setup
        yield one


async def test_models(client):
    assert [model.id async for model in client.models.list()] == ["assistant", "gpt-4o-mini"]
    assert (await client.models.retrieve("default/assistant")).id == "default/assistant"


async def test_chat_and_embeddings(client):
    messages = [{"role": "user", "content": "hi"}]
    answer = await client.chat.completions.create(model="gpt-4o-mini", messages=messages)
    assert answer.choices[0].message.content == "Hello"
    vectors = await client.embeddings.create(model="assistant", input="hi")
    assert vectors.data[0].embedding == [0.5]


async def test_chat_streamed(client):
    stream = await client.chat.completions.create(model="assistant", messages=[], stream=True)
    assert "".join([event.choices[0].delta.content async for event in stream]) == "Hello"


async def test_chat_streamed_after_a_wait(client, until):
    """Keepalives are comments, which the client passes over."""
    setup = client.setup
    endpoints = setup.directory.endpoints("default/assistant")
    setup.point()
    asking = asyncio.ensure_future(client.chat.completions.create(model="assistant", messages=[], stream=True))
    stream = await asking
    setup.directory.set_endpoints("default/assistant", endpoints)
    assert "".join([event.choices[0].delta.content async for event in stream]) == "Hello"


async def test_errors(client):
    with pytest.raises(openai.NotFoundError) as missing:
        await client.chat.completions.create(model="nope", messages=[])
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    client.setup.model(blocked="WeightsNotFound: no such repository")
    client.setup.point()
    with pytest.raises(openai.InternalServerError, match="WeightsNotFound"):
        await client.chat.completions.create(model="assistant", messages=[])


async def test_an_error_inside_a_stream_is_raised(client):
    client.setup.model(max_wait=0.15, keepalive=0.05)
    client.setup.point()
    stream = await client.chat.completions.create(model="assistant", messages=[], stream=True)
    with pytest.raises(openai.APIError, match="No replica"):
        async for _ in stream:
            pass
