"""Requests of every kind, made at random, and clients that read the answers to their end, slowly, in part or not at all."""

import asyncio
import base64
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import orjson
from PIL import Image

from .media_kit import data_url, encoded

Body = dict[str, Any]
_HEADERS = {"content-type": "application/json"}
#: What a stream says of an error, which is none of its status.
_BROKEN = (b'"error":{', b'"error":"')
_NAMES = ("city", "year", "name", "size", "kind", "when", "where", "count")
_WORDS = ("river", "stone", "a", "cloud", "seven", "of", "light", "under", "the", "green", "house", "Zürich", "時間", "\n")
_CLOCK = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {"zone": {"type": "string"}}}}}
_SAMPLING: tuple[Body, ...] = (
    {},
    {"temperature": 0},
    {"seed": 5, "temperature": 1.5, "top_p": 0.8, "min_p": 0.01, "top_k": 40},
    {"presence_penalty": 1, "frequency_penalty": 0.5, "repetition_penalty": 1.1},
    {"logit_bias": {"7": 5, "9": -100}},
    {"stop": ["e", "the"]},
)


@dataclass(frozen=True)
class Asked:
    """A request, and the status that it gets if its client stays."""

    path: str
    content: bytes
    status: int = 200


def _text(chance: random.Random, most: int = 24) -> str:
    return " ".join(chance.choices(_WORDS, k=chance.randrange(1, most)))


def _post(path: str, body: Body, status: int = 200) -> Asked:
    return Asked(path, orjson.dumps(body), status)


def _schema(chance: random.Random) -> Body:
    kinds = [{"type": "string", "maxLength": 8}, {"type": "integer"}, {"type": "boolean"}, {"enum": ["red", "blue"]}]
    properties = {name: chance.choice(kinds) for name in chance.sample(_NAMES, 3)}
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _messages(chance: random.Random) -> list[Body]:
    system = [{"role": "system", "content": "Answer briefly and in order. " * chance.choice([1, 4])}] * chance.randrange(2)
    return [*system, {"role": "user", "content": _text(chance)}]


def _streamed(chance: random.Random) -> Body:
    return chance.choice([{}, {"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}])


def chat(chance: random.Random) -> Asked:
    """A chat, with tools, a schema, alternatives or log probabilities."""
    more: Body = chance.choice(
        [
            {},
            {},
            {"n": 2},
            {"logprobs": True, "top_logprobs": 3},
            {"tools": [_CLOCK], "tool_choice": "required"},
            {"tools": [_CLOCK]},
            {"response_format": {"type": "json_object"}},
            {"response_format": {"type": "json_schema", "json_schema": {"name": "any", "schema": _schema(chance), "strict": True}}},
        ]
    )
    body = {"model": "tiny-chat", "messages": _messages(chance), "max_tokens": chance.randrange(1, 24)}
    return _post("/v1/chat/completions", {**body, **more, **chance.choice(_SAMPLING), **_streamed(chance)})


def image(chance: random.Random) -> Asked:
    """A chat about an image."""
    picture = Image.new("RGB", (chance.choice([32, 64]), 32), chance.choice(["red", "green", "blue"]))
    parts = [{"type": "image_url", "image_url": {"url": data_url(encoded(picture))}}, {"type": "text", "text": _text(chance)}]
    body = {"model": "tiny-vision", "messages": [{"role": "user", "content": parts}], "max_tokens": chance.randrange(1, 8)}
    return _post("/v1/chat/completions", body | _streamed(chance))


def response(chance: random.Random) -> Asked:
    """A request to the Responses API."""
    body = {"model": "tiny-chat", "input": _text(chance), "max_output_tokens": chance.randrange(16, 24), "stream": chance.random() < 0.5}
    return _post("/v1/responses", body)


def completion(chance: random.Random) -> Asked:
    """A completion of texts or of token ids."""
    prompt = chance.choice([_text(chance), [_text(chance), _text(chance)], chance.choices(range(9, 200), k=12)])
    more = chance.choice([{}, {"echo": True, "logprobs": 2}, {"n": 2}, {"best_of": 2}, {"stream": True}, {"stream": True, "logprobs": 1}])
    body = {"model": "tiny-chat", "prompt": prompt, "max_tokens": chance.randrange(1, 24)}
    return _post("/v1/completions", {**body, **chance.choice(_SAMPLING), **more})


def embedding(chance: random.Random) -> Asked:
    """Texts to embed, often ones that came before."""
    texts = [_text(chance, chance.choice([2, 30])) for _ in range(chance.choice([1, 1, 12]))]
    return _post("/v1/embeddings", {"model": "tiny-embed", "input": texts, "encoding_format": chance.choice(["float", "base64"])})


def judgement(chance: random.Random) -> Asked:
    """Texts to judge, by each way there is."""
    texts = [_text(chance) for _ in range(4)]
    ranker = {"model": chance.choice(["tiny-rerank", "tiny-embed"])}
    return chance.choice(
        [
            _post("/v1/rerank", ranker | {"query": texts[0], "documents": texts[1:], "top_n": 2, "return_documents": True}),
            _post("/v1/score", ranker | {"text_1": texts[0], "text_2": texts[1:]}),
            _post("/v1/classify", {"model": "tiny-classify", "input": texts}),
        ]
    )


def tokens(chance: random.Random) -> Asked:
    """Texts to tokens, and back."""
    back = _post("/detokenize", {"model": "tiny-chat", "tokens": chance.choices(range(9, 200), k=20)})
    return chance.choice([_post("/tokenize", {"model": "tiny-chat", "prompt": _text(chance)}), back])


def ollama(chance: random.Random) -> Asked:
    """What clients of Ollama's API ask."""
    bounds = {"model": "tiny-chat", "options": {"num_predict": chance.randrange(1, 16)}, "stream": chance.random() < 0.6}
    return chance.choice(
        [
            _post("/api/chat", bounds | {"messages": _messages(chance), "format": chance.choice(["", "json", _schema(chance)])}),
            _post("/api/generate", bounds | {"prompt": _text(chance), "raw": chance.random() < 0.3}),
            _post("/api/embed", {"model": "tiny-embed", "input": [_text(chance), _text(chance)]}),
            _post("/api/show", {"model": "tiny-embed"}),
        ]
    )


def mistake(chance: random.Random) -> Asked:
    """What is refused, early or late."""
    hello: Body = {"model": "tiny-chat", "messages": [{"role": "user", "content": _text(chance)}]}
    broken = data_url(base64.b64decode("iVBORw0KGgoAAAANSUhEUg=="))
    unseen = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": broken}}]}]
    pattern = {"type": "json_schema", "json_schema": {"name": "any", "schema": {"type": "string", "pattern": "("}}}
    chats: list[tuple[Body, int]] = [
        ({"colour": "red"}, 400),
        ({"model": f"none-{chance.randrange(1000)}"}, 404),
        ({"model": "tiny-embed"}, 400),
        ({"temperature": 9}, 400),
        ({"messages": [{"role": "user", "content": "word " * 5000}]}, 400),
        ({"messages": [{"role": "user", "content": "x" * (1 << 17)}]}, 413),
        ({"model": "tiny-vision", "messages": unseen}, 400),
        ({"response_format": pattern}, 400),
        ({"chat_template_kwargs": {"unknown": 1}}, 400),
    ]
    more, status = chance.choice(chats)
    return chance.choice(
        [
            _post("/v1/chat/completions", hello | more, status),
            Asked("/v1/chat/completions", b'{"model": "tiny-chat", "messages": [', 400),
            Asked(f"/v1/nothing/{chance.randrange(1000)}", b"{}", 404),
            _post("/v1/embeddings", {"model": "tiny-embed", "input": []}, 400),
        ]
    )


#: Kinds of requests, with how often each comes.
KINDS: dict[Callable[[random.Random], Asked], int] = {
    chat: 10,
    image: 1,
    response: 2,
    completion: 4,
    embedding: 3,
    judgement: 3,
    tokens: 2,
    ollama: 4,
    mistake: 3,
}


class Visitors:
    """Clients of a server at ``url``, ``clients`` at once, that do what chance makes them do."""

    def __init__(self, url: str, clients: int = 16):
        self._url = httpx.URL(url)
        self._clients = clients
        self._chance = random.Random(clients)

    async def come(self, requests: range, tell: Callable[[int], None]) -> None:
        """Makes so many requests; ``tell`` gets the number of those that have ended. Raises AssertionError for a wrong answer."""
        left, ended = iter(requests), iter(requests)
        async with httpx.AsyncClient(base_url=self._url, headers=_HEADERS, timeout=60) as http, asyncio.TaskGroup() as group:

            async def client() -> None:
                for _ in left:
                    await self._visit(http)
                    tell(next(ended) + 1)

            for _ in range(self._clients):
                group.create_task(client())

    async def _visit(self, http: httpx.AsyncClient) -> None:
        [kind] = self._chance.choices(list(KINDS), list(KINDS.values()))
        asked = kind(self._chance)
        manner = self._chance.choice([self._stay, self._stay, self._dawdle, self._break_off, self._leave])
        await manner(http, asked)

    async def _stay(self, http: httpx.AsyncClient, asked: Asked) -> None:
        answer = await http.post(asked.path, content=asked.content)
        _check(asked, answer.status_code, answer.content)

    async def _dawdle(self, http: httpx.AsyncClient, asked: Asked) -> None:
        """Does something else after each part of the answer."""
        parts = []
        async with http.stream("POST", asked.path, content=asked.content) as answer:
            async for part in answer.aiter_bytes():
                parts.append(part)
                await http.get("/health")
        _check(asked, answer.status_code, b"".join(parts))

    async def _break_off(self, http: httpx.AsyncClient, asked: Asked) -> None:
        """Leaves after some parts of the answer."""
        patience = self._chance.randrange(6)
        async with http.stream("POST", asked.path, content=asked.content) as answer:
            assert answer.status_code == asked.status, (asked, answer.status_code)
            async for _ in answer.aiter_bytes():
                if patience == 0:
                    break
                patience -= 1

    async def _leave(self, _: httpx.AsyncClient, asked: Asked) -> None:
        """Leaves as soon as it has asked, or halfway through asking."""
        _, writer = await asyncio.open_connection(self._url.host, self._url.port)
        head = f"POST {asked.path} HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\ncontent-length: {len(asked.content)}\r\n\r\n"
        said = self._chance.choice([len(asked.content), len(asked.content), len(asked.content) // 2])
        writer.write(head.encode() + asked.content[:said])
        if self._chance.random() < 0.5:
            writer.transport.abort()
        writer.close()


def _check(asked: Asked, status: int, content: bytes) -> None:
    assert status == asked.status, (asked, status, content[:1000])
    assert status != 200 or not any(mark in content for mark in _BROKEN), (asked, content[-1000:])
