"""An OpenAI client, as small as a terminal needs it."""

import contextlib
import ipaddress
import json
import os
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any
from urllib.parse import quote

import httpx

from modelyard.api.wording import nearest
from modelyard.local.errors import LocalFailed

Message = dict[str, str]
#: The key of a server that asks for one, in the variable that the server itself reads; on a command line all could see it.
API_KEY = "MODELYARD_API_KEY"
#: A model that wakes may take minutes to its first token; connecting may not.
_TIMEOUT = httpx.Timeout(None, connect=5.0)
#: Names that an error lists.
_LISTED = 10


async def stream_chat(url: str, model: str, messages: list[Message], **sampling: float) -> AsyncGenerator[str]:
    """Yields the answer's text as it comes; closing the iterator stops the model too. Raises LocalFailed.

    ``sampling`` are further fields of the request, such as ``max_tokens``.
    """
    body = {"model": model, "messages": messages, "stream": True, **sampling}
    async with _client(url) as client, client.stream("POST", f"{url}/chat/completions", json=body) as response:
        if response.status_code != httpx.codes.OK:
            raise _failure(await response.aread(), response.status_code)
        async for line in response.aiter_lines():
            data = line.removeprefix("data:").strip()
            if line.startswith("data:") and data != "[DONE]":
                yield _text(data)


async def models(url: str) -> list[dict[str, Any]]:
    """Returns the models that the gateway knows. Raises LocalFailed."""
    async with _client(url) as client:
        response = await client.get(f"{url}/models", timeout=10.0)
        if response.status_code != httpx.codes.OK:
            raise _failure(response.content, response.status_code)
        listed: list[dict[str, Any]] = _read(url, response).get("data") or []
        return listed


async def chat_model(url: str, wanted: str | None = None) -> str:
    """Returns the model that is wanted, else the first that can chat. One whose abilities are not known yet may.

    Raises LocalFailed when there is none, with the names that there are.
    """
    listed = await models(url)
    able = [str(model["id"]) for model in listed if _may_chat(model)]
    if wanted is None:
        if not able:
            raise LocalFailed(f"no model at {url} can chat", "Serve one, such as builtin://smollm2-135m-instruct")
        return able[0]
    model = next((model for model in listed if model["id"] == wanted), None) or await _named(url, wanted)
    if model is None:
        raise LocalFailed(f"there is no model {wanted} at {url}", _choice(wanted, [str(one["id"]) for one in listed]))
    if not _may_chat(model):
        raise LocalFailed(f"{wanted} cannot chat, only {', '.join(model['capabilities'])}", _choice(wanted, able))
    return wanted


async def _named(url: str, name: str) -> dict[str, Any] | None:
    """Returns the model that a name stands for which is not listed, such as an alias; None when the server knows none."""
    async with _client(url) as client:
        response = await client.get(f"{url}/models/{quote(name, safe='/:')}", timeout=10.0)
        return _read(url, response) if response.status_code == httpx.codes.OK else None


def _may_chat(model: dict[str, Any]) -> bool:
    return "chat" in (model.get("capabilities") or ["chat"])


def _choice(wanted: str, names: list[str]) -> str:
    """Returns what to do instead, with a bounded list of what there is; the nearest name first."""
    if not names:
        return "It has none that would do"
    near = nearest(wanted, names)
    listed = sorted(names, key=lambda name: (name != near, name))
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"There {'is' if len(names) == 1 else 'are'} {', '.join(listed[:_LISTED])}{more}"


@contextlib.asynccontextmanager
async def _client(url: str) -> AsyncIterator[httpx.AsyncClient]:
    try:
        key = os.environ.get(API_KEY)
        headers = {"authorization": f"Bearer {key}"} if key else {}
        async with httpx.AsyncClient(timeout=_TIMEOUT, trust_env=not _is_loopback(url), headers=headers) as client:
            yield client
    except httpx.HTTPError as problem:
        why = str(problem) or type(problem).__name__
        raise LocalFailed(f"no answer from {url}: {why}", "Check the address, and `modelyard get`") from None


def _is_loopback(url: str) -> bool:
    """Returns whether a proxy makes no sense on the way."""
    host = httpx.URL(url).host
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _read(url: str, response: httpx.Response) -> dict[str, Any]:
    """Returns an answer's JSON object; raises LocalFailed for anything else, such as the page of a web server."""
    with contextlib.suppress(ValueError):
        if isinstance(told := response.json(), dict):
            return told
    raise LocalFailed(f"what answers at {url} is no OpenAI server", "Check the address: it is that of the gateway, or of `modelyard serve`")


def _text(data: str) -> str:
    chunk = json.loads(data)
    if "error" in chunk:
        raise LocalFailed(chunk["error"]["message"])
    choices = chunk.get("choices") or [{}]
    return choices[0].get("delta", {}).get("content") or ""


def _failure(body: bytes, status: int) -> LocalFailed:
    if status == httpx.codes.UNAUTHORIZED:
        return LocalFailed(
            "the server wants a key, and not this one" if os.environ.get(API_KEY) else "the server wants a key", f"Set {API_KEY} to it"
        )
    try:
        return LocalFailed(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return LocalFailed(f"HTTP status {status}: {body[:200].decode('utf-8', 'replace')}")
