"""Ollama's API, by Ollama's own client against real models."""

import asyncio
import functools
import json
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import ollama
import pytest
from modelyard_runtime.api.ollama import bodies
from modelyard_runtime.api.ollama.answers import Answer, Clock, Piece, message
from modelyard_runtime.api.ollama.translation import messages
from modelyard_runtime.models.answer import Content, Reasoning, ToolCallArguments, ToolCallStart
from PIL import Image

from .agents import WEATHER, make_agent
from .conftest import Running, wait_until

HELLO = [{"role": "user", "content": "Hello"}]
FIXED = {"temperature": 0, "num_predict": 6}
CHAT = {"model": "tiny-chat", "messages": HELLO, "options": FIXED, "stream": False}


Clients = Callable[[str], ollama.Client]


@pytest.fixture
def client() -> Iterator[Clients]:
    """Returns clients of servers, one for each."""
    with ExitStack() as opened:
        yield functools.cache(lambda server: opened.enter_context(ollama.Client(server)))


def check_durations(answer: Any) -> None:
    assert answer.total_duration >= answer.load_duration + answer.prompt_eval_duration + answer.eval_duration > 0
    assert min(answer.load_duration, answer.prompt_eval_duration, answer.eval_duration) >= 0


def test_a_chat(chat: Running, client: Clients) -> None:
    answer = client(chat.url).chat("tiny-chat", HELLO, options=FIXED)
    openai = chat.openai().chat.completions.create(model="tiny-chat", messages=HELLO, temperature=0, max_tokens=6)
    assert answer.message.role == "assistant"
    assert answer.message.content == openai.choices[0].message.content
    assert answer.prompt_eval_count == openai.usage.prompt_tokens
    assert answer.eval_count == openai.usage.completion_tokens
    assert (answer.done, answer.done_reason, answer.model) == (True, openai.choices[0].finish_reason, "tiny-chat")
    check_durations(answer)


def test_a_streamed_chat(chat: Running, client: Clients) -> None:
    whole = client(chat.url).chat("tiny-chat", HELLO, options=FIXED)
    lines = list(client(chat.url).chat("tiny-chat", HELLO, options=FIXED, stream=True))
    assert [line.done for line in lines] == [False] * (len(lines) - 1) + [True]
    assert "".join(line.message.content for line in lines) == whole.message.content
    assert lines[-1].eval_count == whole.eval_count
    check_durations(lines[-1])


async def test_the_asynchronous_client(chat: Running) -> None:
    async with ollama.AsyncClient(chat.url) as answers:
        await check_asynchronous(answers)


async def check_asynchronous(answers: ollama.AsyncClient) -> None:
    text = await answers.generate("tiny-chat", "Hello", options=FIXED)
    lines = [line async for line in await answers.generate("tiny-chat", "Hello", options=FIXED, stream=True)]
    assert "".join(line.response for line in lines) == text.response
    many = await asyncio.gather(*(answers.generate("tiny-chat", "Hello", options=FIXED) for _ in range(4)))
    assert {answer.response for answer in many} == {text.response}


def test_generate_is_a_turn_of_a_chat(chat: Running, client: Clients) -> None:
    text = client(chat.url).generate("tiny-chat", "Hello", system="Be brief.", options=FIXED)
    turns = [{"role": "system", "content": "Be brief."}, *HELLO]
    assert text.response == client(chat.url).chat("tiny-chat", turns, options=FIXED).message.content
    assert text.done_reason in {"stop", "length"}


def test_a_raw_prompt_is_complete(chat: Running, client: Clients) -> None:
    raw = client(chat.url).generate("tiny-chat", "Once upon", raw=True, options=FIXED)
    openai = chat.openai().completions.create(model="tiny-chat", prompt="Once upon", temperature=0, max_tokens=6)
    assert raw.response == openai.choices[0].text
    assert raw.prompt_eval_count == openai.usage.prompt_tokens
    assert raw.prompt_eval_count < client(chat.url).generate("tiny-chat", "Once upon", options=FIXED).prompt_eval_count
    lines = list(client(chat.url).generate("tiny-chat", "Once upon", raw=True, options=FIXED, stream=True))
    assert "".join(line.response for line in lines) == raw.response


def test_a_model_without_chats_goes_on_from_the_prompt(start: Callable[..., Running], client: Clients) -> None:
    server = start(capability=("completions",))
    raw = client(server.url).generate("tiny-chat", "Once upon", raw=True, options=FIXED)
    assert client(server.url).generate("tiny-chat", "Once upon", options=FIXED).response == raw.response


def test_options_reach_the_sampler(chat: Running, client: Clients) -> None:
    asked = {"num_predict": 8, "seed": 7, "temperature": 1.5, "top_k": 50, "top_p": 0.95, "min_p": 0.01}
    first, second = (client(chat.url).generate("tiny-chat", "Hello", options=asked).response for _ in range(2))
    assert first == second
    assert client(chat.url).generate("tiny-chat", "Hello", options=asked | {"seed": 8}).response != first
    stop = first[len(first) // 2]
    stopped = client(chat.url).generate("tiny-chat", "Hello", options=asked | {"stop": [stop]})
    assert stopped.response == first[: first.index(stop)]
    assert stopped.done_reason == "stop"
    loading = {"num_ctx": 4096, "num_gpu": 1, "num_thread": 4, "num_keep": 5, "use_mmap": True, "mirostat": 0, "repeat_last_n": 64}
    assert client(chat.url).generate("tiny-chat", "Hello", options=asked | loading).response == first


@pytest.mark.parametrize("keep_alive", ["5m", "-1m", 30, -1, 0.5, "1h30m", "0"])
def test_how_long_a_model_is_kept_is_accepted(chat: Running, keep_alive: float | str, client: Clients) -> None:
    assert client(chat.url).generate("tiny-chat", "Hello", options=FIXED, keep_alive=keep_alive).done


def test_a_model_that_does_not_think_is_not_asked_to(chat: Running, client: Clients) -> None:
    answer = client(chat.url).chat("tiny-chat", HELLO, options=FIXED, think=False)
    assert answer.message.content == client(chat.url).chat("tiny-chat", HELLO, options=FIXED).message.content


def test_images(start: Callable[..., Running], tmp_path: Path, client: Clients) -> None:
    server = start("builtin://tiny-vision")
    pictures = {}
    for colour in ("red", "blue"):
        pictures[colour] = tmp_path / f"{colour}.png"
        Image.new("RGB", (32, 32), colour).save(pictures[colour])
    turns = [{"role": "user", "content": "What is this?", "images": [pictures["red"]]}]
    seen = client(server.url).chat("tiny-vision", turns, options=FIXED)
    text = client(server.url).chat("tiny-vision", [{"role": "user", "content": "What is this?"}], options=FIXED)
    assert seen.prompt_eval_count > text.prompt_eval_count
    asked = client(server.url).generate("tiny-vision", "What is this?", images=[pictures["red"].read_bytes()], options=FIXED)
    assert asked.response == seen.message.content
    assert "vision" in client(server.url).show("tiny-vision").capabilities
    answer = httpx.post(f"{server.url}/api/generate", json={"model": "tiny-vision", "prompt": "Hm?", "images": ["!"]})
    assert (answer.status_code, list(answer.json())) == (400, ["error"])


def test_answers_in_a_form(chat: Running, client: Clients) -> None:
    schema = {"type": "object", "properties": {"mood": {"enum": ["good", "bad"]}}, "required": ["mood"], "additionalProperties": False}
    options = {"temperature": 0, "num_predict": 200}
    said = client(chat.url).chat("tiny-chat", HELLO, format=schema, options=options).message.content
    assert json.loads(said)["mood"] in {"good", "bad"}
    lines = client(chat.url).generate("tiny-chat", "Hello", format=schema, options=options, stream=True)
    assert "".join(line.response for line in lines) == said
    broken = httpx.post(f"{chat.url}/api/chat", json={**CHAT, "format": {"type": "nonsense"}})
    assert (broken.status_code, list(broken.json())) == (400, ["error"])


def test_tools_and_thinking(start: Callable[..., Running], tmp_path: Path, client: Clients) -> None:
    make_agent(tmp_path)
    server = start(f"file://{tmp_path}", served_model_name="agent")
    talk = client(server.url)
    plain = talk.chat("agent", HELLO, options=FIXED)
    told = talk.chat("agent", HELLO, tools=[WEATHER], options=FIXED)
    assert told.prompt_eval_count > plain.prompt_eval_count
    thought = talk.chat("agent", HELLO, think=True, options=FIXED)
    assert thought.message.thinking
    assert talk.show("agent").capabilities == ["completion", "tools", "thinking"]
    dialect = httpx.get(f"{server.url}/v1/models/agent").json()["dialect"]
    assert (dialect["tool_parser"], dialect["reasoning_parser"]) == ("hermes", "think")
    assert not thought.message.content
    assert talk.chat("agent", HELLO, think=False, options=FIXED).message.thinking is None
    call = {"function": {"name": "get_weather", "arguments": {"city": "Rome", "days": 2}}}
    turns = [*HELLO, {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_name": "get_weather", "content": "Sun."}]
    after = talk.chat("agent", turns, tools=[WEATHER], options=FIXED)
    assert after.prompt_eval_count > told.prompt_eval_count


def test_calls_of_tools_come_whole_before_the_end() -> None:
    async def pieces() -> AsyncGenerator[Piece, None]:
        yield Piece([Reasoning("Hm. "), Content("I ")], 2)
        yield Piece([Content("ask."), ToolCallStart(0, "call_1", "weather"), ToolCallArguments(0, '{"city": ')], 4)
        yield Piece([ToolCallArguments(0, '"Rome"}'), ToolCallStart(1, "call_2", "clock")], 6, "stop")

    async def lines() -> list[dict[str, Any]]:
        return [json.loads(line) async for line in Answer("m", 3, pieces(), Clock(), message).lines()]

    told = asyncio.run(lines())
    assert [one["message"].get("thinking", "") for one in told] == ["Hm. ", "", "", ""]
    assert [one["message"]["content"] for one in told] == ["I ", "ask.", "", ""]
    calls = [(call["function"]["name"], call["function"]["arguments"]) for call in told[2]["message"]["tool_calls"]]
    assert calls == [("weather", {"city": "Rome"}), ("clock", {})]
    assert (told[3]["done_reason"], told[3]["prompt_eval_count"], told[3]["eval_count"]) == ("stop", 3, 6)


def test_tools_answers_find_their_calls() -> None:
    call = {"function": {"name": "a", "arguments": {}}}
    given = [
        {"role": "assistant", "tool_calls": [call, {"function": {"name": "b"}}]},
        {"role": "tool", "tool_name": "b", "content": "of b"},
        {"role": "tool", "content": "of a"},
        {"role": "tool", "content": "of nobody"},
    ]
    turns = messages([bodies.Message.model_validate(one) for one in given])
    assert [one["id"] for one in turns[0]["tool_calls"]] == ["call_0_0", "call_0_1"]
    assert [turn["tool_call_id"] for turn in turns[1:]] == ["call_0_1", "call_0_0", "call_3"]


@pytest.mark.parametrize("raw", [False, True])
def test_log_probabilities(chat: Running, client: Clients, raw: bool) -> None:
    asked: dict[str, Any] = {"raw": raw, "options": FIXED, "logprobs": True, "top_logprobs": 2}
    answer = client(chat.url).generate("tiny-chat", "Hello", **asked)
    assert answer.logprobs is not None
    assert "".join(entry.token for entry in answer.logprobs) == answer.response
    assert all(entry.top_logprobs[0].logprob >= entry.logprob for entry in answer.logprobs if entry.top_logprobs)
    lines = client(chat.url).generate("tiny-chat", "Hello", **asked, stream=True)
    assert [entry.token for line in lines for entry in line.logprobs or []] == [entry.token for entry in answer.logprobs]


def test_loading_ahead(chat: Running, client: Clients) -> None:
    answer = client(chat.url).generate("tiny-chat")
    assert (answer.response, answer.done, answer.done_reason) == ("", True, "load")
    talk = client(chat.url).chat("tiny-chat", [])
    assert (talk.message.content, talk.done_reason) == ("", "load")


def test_the_latest_of_a_model_is_the_model(chat: Running, client: Clients) -> None:
    answer = client(chat.url).chat("tiny-chat:latest", HELLO, options=FIXED)
    assert answer.model == "tiny-chat:latest"
    with pytest.raises(ollama.ResponseError, match="q4") as caught:
        client(chat.url).chat("tiny-chat:q4", HELLO)
    assert caught.value.status_code == 404


def test_embeddings(embed: Running, client: Clients) -> None:
    texts = ["Hello", "Something longer than that"]
    answer = client(embed.url).embed("tiny-embed", texts)
    openai = embed.openai().embeddings.create(model="tiny-embed", input=texts, encoding_format="float")
    for mine, theirs in zip(answer.embeddings, openai.data, strict=True):
        assert mine == pytest.approx(theirs.embedding, abs=1e-6)
    assert answer.prompt_eval_count == openai.usage.prompt_tokens
    assert answer.total_duration >= answer.load_duration >= 0
    one = client(embed.url).embed("tiny-embed", "Hello", dimensions=8)
    assert len(one.embeddings[0]) == 8
    old = client(embed.url).embeddings("tiny-embed", "Hello")
    assert old.embedding == pytest.approx(answer.embeddings[0], abs=1e-6)
    assert client(embed.url).embeddings("tiny-embed", "").embedding == []
    assert client(embed.url).embed("tiny-embed", "").embeddings == client(embed.url).embed("tiny-embed", []).embeddings == []


def test_long_texts_are_cut_unless_told_otherwise(embed: Running, client: Clients) -> None:
    long = "word " * 3000
    answer = client(embed.url).embed("tiny-embed", long)
    described = embed.openai().models.retrieve("tiny-embed").model_extra
    assert described is not None
    assert answer.prompt_eval_count == described["max_model_len"]
    with pytest.raises(ollama.ResponseError, match="maximum input length"):
        client(embed.url).embed("tiny-embed", long, truncate=False)


def test_what_there_is(chat: Running, embed: Running, client: Clients) -> None:
    (listed,) = client(chat.url).list().models
    assert listed.model == "tiny-chat:latest"
    assert listed.details is not None
    assert listed.details.format == "safetensors"
    (running,) = client(chat.url).ps().models
    assert (running.name, running.context_length) == ("tiny-chat:latest", 2048)
    shown = client(chat.url).show("tiny-chat")
    assert shown.capabilities == ["completion"]
    assert shown.details.family
    assert shown.modelinfo is not None
    family = shown.modelinfo["general.architecture"]
    assert shown.modelinfo[f"{family}.context_length"] == 2048
    assert shown.modelinfo["general.parameter_count"] > 0
    assert client(embed.url).show("tiny-embed").capabilities == ["embedding"]
    assert client(embed.url).show("tiny-embed").modelinfo["bert.embedding_length"] == 64


def test_the_server_says_that_it_is_there(chat: Running) -> None:
    assert httpx.head(chat.url).status_code == 200
    assert httpx.get(f"{chat.url}/").text == "Modelyard is running"
    assert httpx.get(f"{chat.url}/api/version").json()["version"]


def test_names_that_the_gateway_has_resolved_are_taken(chat: Running, embed: Running) -> None:
    for server, path, body in (
        (chat, "chat", CHAT),
        (chat, "show", {}),
        (chat, "generate", {"prompt": "Hello", "options": FIXED, "stream": False}),
        (embed, "embed", {"input": "Hello"}),
    ):
        for name in ("team/assistant", "gpt:latest", "llama3.2:1b"):
            reply = httpx.post(f"{server.url}/api/{path}", json={**body, "model": name}, headers={"x-modelyard-model": server.name})
            assert reply.status_code == 200, (path, name, reply.text)


def test_an_adapter_that_a_model_has_not_is_not_found(chat: Running, embed: Running) -> None:
    for server, path, body in (
        (chat, "chat", {**CHAT, "stream": False}),
        (chat, "chat", {}),
        (chat, "show", {}),
        (embed, "embed", {"input": "Hello"}),
    ):
        reply = httpx.post(f"{server.url}/api/{path}", json={**body, "model": f"{server.name}:nope"})
        assert (reply.status_code, reply.headers["x-modelyard-error-code"]) == (404, "model_not_found")
        assert "no adapter 'nope'" in reply.json()["error"]


def test_clients_change_nothing_unless_they_may(chat: Running, client: Clients) -> None:
    for operation in (
        lambda: client(chat.url).pull("hf.co/org/name"),
        lambda: client(chat.url).delete("tiny-chat"),
        lambda: client(chat.url).generate("tiny-chat", keep_alive=0),
    ):
        with pytest.raises(ollama.ResponseError, match="--ollama-admin") as caught:
            operation()
        assert caught.value.status_code == 403


def test_a_model_is_unloaded_and_comes_back(start: Callable[..., Running], client: Clients) -> None:
    server = start(ollama_admin=True)
    assert client(server.url).generate("tiny-chat", keep_alive=0).done_reason == "unload"
    assert client(server.url).ps().models == []
    answer = client(server.url).generate("tiny-chat", "Hello", options=FIXED, keep_alive="10m")
    assert answer.load_duration > 0
    (running,) = client(server.url).ps().models
    assert running.expires_at is not None


def test_models_come_and_go(start: Callable[..., Running], tmp_path: Path, client: Clients, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    server = start(ollama_admin=True, allow_pull=("builtin://tiny-embed", "builtin://nope", "hf://no/hub"), state_dir=tmp_path)
    with pytest.raises(ollama.ResponseError, match="is no source") as caught:
        client(server.url).pull("llama3.2")
    assert caught.value.status_code == 400
    with pytest.raises(ollama.ResponseError, match="may pull builtin://tiny-embed"):
        client(server.url).pull("hf.co/org/name:latest")
    with pytest.raises(ollama.ResponseError, match=r"The pull failed: there is no builtin model called 'nope'\. Choose one of") as caught:
        client(server.url).pull("builtin://nope")
    assert caught.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="The pull failed") as caught:
        client(server.url).pull("hf.co/no/hub")
    assert caught.value.status_code == 502
    told = list(client(server.url).pull("builtin://tiny-embed", stream=True))
    assert (told[0].status, told[-1].status) == ("pulling manifest", "success")
    assert client(server.url).pull("tiny-embed").status == "success"
    assert {model.model for model in client(server.url).list().models} == {"tiny-chat:latest", "tiny-embed:latest"}
    assert len(client(server.url).embed("tiny-embed", "Hello").embeddings) == 1
    assert client(server.url).delete("tiny-embed").status == "success"
    assert [model.model for model in client(server.url).list().models] == ["tiny-chat:latest"]
    with pytest.raises(ollama.ResponseError, match="not by a pull"):
        client(server.url).delete("tiny-chat")


def test_a_client_that_leaves_ends_its_request(chat: Running) -> None:
    aborted = chat.metric("request_success_total", finished_reason="abort")
    body = {**CHAT, "stream": True, "options": {"num_predict": 1900, "seed": 1}}
    with httpx.stream("POST", f"{chat.url}/api/chat", json=body) as response:
        next(response.iter_lines())
    wait_until(lambda: chat.metric("request_success_total", finished_reason="abort") > aborted, "the end of the request")
