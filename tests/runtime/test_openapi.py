"""/openapi.json: what tools that make requests of it, and judge the answers by it, rely on."""

import httpx

from .conftest import Running

#: Operations that answer with an error alone, or with nothing.
_WITHOUT_ANSWER = {("/v1/responses/{name}", method) for method in ("get", "post", "delete")} | {("/api/delete", "delete")}


def test_it_says_of_every_endpoint_what_it_answers(chat: Running) -> None:
    document = httpx.get(f"{chat.url}/openapi.json").json()
    schemas = document["components"]["schemas"]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            answers = operation["responses"]
            error = answers["503"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
            probe = path in {"/health", "/ready"}
            assert error == ("Status" if probe else "OllamaError" if path == "/" or path.startswith("/api/") else "Error")
            assert error in schemas
            if (path, method) not in _WITHOUT_ANSWER:
                assert answers["200"]["content"], f"{method} {path}: api/answers.yaml does not say what it answers"
            for content in answers["200"].get("content", {}).values():
                described = content.get("schema") or content["itemSchema"]
                assert described.get("$ref", "").rpartition("/")[2] in {*schemas, ""}


def test_events_are_described_one_by_one(chat: Running) -> None:
    paths = httpx.get(f"{chat.url}/openapi.json").json()["paths"]
    answers = [operation["responses"]["200"].get("content", {}) for path in paths.values() for operation in path.values()]
    streams = [content["text/event-stream"] for content in answers if "text/event-stream" in content]
    assert len(streams) == 5
    for stream in streams:
        assert set(stream) == {"itemSchema"}
        assert stream["itemSchema"]["required"] == ["data"]


def test_fields_without_support_are_described_by_what_they_may_be(chat: Running) -> None:
    document = httpx.get(f"{chat.url}/openapi.json").json()
    body = document["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    fields = document["components"]["schemas"][body.rpartition("/")[2]]["properties"]
    assert fields["modalities"]["enum"] == [None, ["text"]]
    assert fields["web_search_options"]["enum"] == [None]


def test_no_secret_and_no_settings_are_in_it(chat: Running) -> None:
    text = httpx.get(f"{chat.url}/openapi.json").text
    assert "/admin" not in text
    assert "tiny-chat" not in text
