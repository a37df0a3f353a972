"""langchain-openai's standard tests for chat models and embeddings, unmodified, against a server of tiny models.

https://docs.langchain.com/oss/python/contributing/standard-tests-langchain
"""

import base64
import os
from typing import Any

import httpx
import pytest
from langchain_core.embeddings import Embeddings
from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from langchain_tests.integration_tests import ChatModelIntegrationTests, EmbeddingsIntegrationTests

SERVER = os.environ["MODELYARD_URL"]
BASE = f"{SERVER}/v1"


def token(text: str) -> str:
    """Returns the id of a token."""
    [one] = httpx.post(f"{SERVER}/tokenize", json={"model": "eyes", "prompt": text, "add_special_tokens": False}).json()["tokens"]
    return str(one)


# Random weights say anything: what is tested is the protocol. The bias makes them say Z in a string and 3 where a number is due, and end
# strings and objects as soon as the grammar lets them; the penalty on what was said once puts the quotation mark behind Z at first and
# before it later, so that strings are neither empty nor endless.
SHORT = {token("Z"): 97, token('"'): 98, token("}"): 94, token("3"): 50}


#: A pixel, in PNG.
PIXEL = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAIAAACQkWg2AAAAF0lEQVR4nGP4z8BAEiJN9aiGUQ1DSgMAkPn/ASc0xYkAAAAASUVORK5CYII=")


@pytest.fixture(autouse=True)
def _pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has the tests' own picture, which they fetch from the internet before they send it, drawn here."""
    get = httpx.get

    def answered(url: str, **options: Any) -> httpx.Response:
        return httpx.Response(200, content=PIXEL) if url.endswith(".png") else get(url, **options)

    monkeypatch.setattr(httpx, "get", answered)


def witless(reason: str) -> pytest.MarkDecorator:
    """Marks a test that asks for what only a model that understands can say; it fails if it passes."""
    return pytest.mark.xfail(strict=True, reason=reason)


class TestChat(ChatModelIntegrationTests):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        bounds = {"temperature": 0, "max_tokens": 200, "logit_bias": SHORT, "presence_penalty": 2, "max_retries": 0, "stream_usage": True}
        return {"model": "eyes", "base_url": BASE, "api_key": "none", **bounds}

    @property
    def has_tool_choice(self) -> bool:
        return True

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_image_inputs(self) -> bool:
        return True

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str:
        return "chat"

    @property
    def enable_vcr_tests(self) -> bool:
        return False

    @witless("the keys of the JSON are named in the question alone, by no schema")
    def test_json_mode(self, model: BaseChatModel) -> None:
        super().test_json_mode(model)

    @witless("the model has to call a tool of its own accord, and to answer when it has the result")
    def test_agent_loop(self, model: BaseChatModel) -> None:
        super().test_agent_loop(model)

    @witless("the argument has to be the Chinese text that the question names")
    def test_unicode_tool_call_integration(self, model: BaseChatModel) -> None:
        super().test_unicode_tool_call_integration(model)


class TestEmbeddings(EmbeddingsIntegrationTests):
    @property
    def embeddings_class(self) -> type[Embeddings]:
        return OpenAIEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"model": "embed", "base_url": BASE, "api_key": "none", "check_embedding_ctx_length": False, "max_retries": 0}
