"""Bad input of the private port: each row gets its status, error type, field and words, and nothing comes of it."""

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from .conftest import Running, running
from .refusals import TYPES, assert_error

EMBED = "builtin://tiny-embed"
# Method, path, body → status (whose error has one type), param, words
BAD = {
    "no body": ("POST", "pulls", None, 400, None, "no body"),
    "no source": ("POST", "pulls", {}, 400, "source", "Missing required parameter"),
    "source of another type": ("POST", "pulls", {"source": 7}, 400, "source", "expected a string"),
    "no scheme": ("POST", "pulls", {"source": "tiny-chat"}, 400, "source", "is not a source"),
    "a folder": ("POST", "pulls", {"source": "file:///etc"}, 403, "source", "builtin://*, hf://*"),
    "a folder beside an allowed one": ("POST", "pulls", {"source": "file:///models/../etc"}, 400, "source", "without .."),
    "the folder above": ("POST", "pulls", {"source": "file:///models/.."}, 400, "source", "without .."),
    "a way out of the catalogue": ("POST", "pulls", {"source": "builtin://../tiny-chat"}, 400, "source", "without .."),
    "a way out of a bucket": ("POST", "pulls", {"source": "s3://bucket/a/../b"}, 400, "source", "without .."),
    "the end of a string": ("POST", "pulls", {"source": "builtin://tiny\x00chat"}, 400, "source", "is not a source"),
    "a folder with the end of a string": ("POST", "pulls", {"source": "file:///models/a\x00b"}, 400, "source", "is not a source"),
    "a revision with a line break": ("POST", "pulls", {"source": "hf://a/b@main\n"}, 400, "source", "is not a source"),
    "a bucket that is not allowed": ("POST", "pulls", {"source": "s3://bucket/model"}, 403, "source", "--allow-pull"),
    "no repository": ("POST", "pulls", {"source": "hf://a/b/c"}, 400, "source", "does not name a repository"),
    "a way out": ("POST", "pulls", {"source": "hf://../../etc"}, 400, "source", "without .."),
    "a way out in a revision": ("POST", "pulls", {"source": "hf://a/b@..x"}, 400, "source", "does not name a repository"),
    "an adapter's folder": ("POST", "pulls", {"source": EMBED, "adapter": ["a=file:///etc"]}, 403, "source", "builtin://*, hf://*"),
    "a way out for an adapter": ("POST", "pulls", {"source": EMBED, "adapter": ["a=file:///models/../etc"]}, 400, "source", "without .."),
    "too long": ("POST", "pulls", {"source": "hf://" + "a" * 2000}, 400, "source", "at most 1024"),
    "unknown field": ("POST", "pulls", {"source": EMBED, "colour": "red"}, 400, "colour", "Unrecognized"),
    "a file of the server": ("POST", "pulls", {"source": EMBED, "token_file": "/etc/passwd"}, 400, "token_file", "Unrecognized"),
    "a setting of the process": ("POST", "pulls", {"source": EMBED, "port": 1}, 400, "port", "Unrecognized"),
    "bad name": ("POST", "pulls", {"source": EMBED, "name": "a b"}, 400, "name", "Invalid 'name'"),
    "empty name": ("POST", "pulls", {"source": EMBED, "name": ""}, 400, "name", "at least 1"),
    "bad alias": ("POST", "pulls", {"source": EMBED, "aliases": [1]}, 400, "aliases[0]", "expected a string"),
    "bad number": ("POST", "pulls", {"source": EMBED, "max_queue": -1}, 400, "max_queue", "at least 0"),
    "bad dtype": ("POST", "pulls", {"source": EMBED, "dtype": "int3"}, 400, "dtype", "Invalid 'dtype'"),
    "bad duration": ("POST", "pulls", {"source": EMBED, "idle_unload": "soon"}, 400, "idle_unload", "30s, 5m"),
    "bad capability": ("POST", "pulls", {"source": EMBED, "capabilities": ["swim"]}, 400, "capabilities[0]", "Invalid"),
    "a name that is taken": ("POST", "pulls", {"source": "builtin://tiny-chat", "name": "one"}, 409, "name", "taken"),
    "an array": ("POST", "pulls", [], 400, None, "JSON object"),
    "no pull": ("GET", "pulls/pull-1", None, 404, None, "/admin/pulls"),
    "cancel no pull": ("DELETE", "pulls/pull-1", None, 404, None, "/admin/pulls"),
    "no model": ("GET", "models/walrus", None, 404, "model", "'one'"),
    "load no model": ("POST", "models/walrus/load", None, 404, "model", "'one'"),
    "an adapter that a model has not": ("GET", "models/one:nope", None, 404, "model", "'one'"),
    "unload a model by an adapter": ("POST", "models/one:nope/unload", None, 404, "model", "'one'"),
    "remove a model by an adapter": ("DELETE", "models/one:nope", None, 404, "model", "'one'"),
    "unload no model": ("POST", "models/walrus/unload", None, 404, "model", "'one'"),
    "remove a model of the flags": ("DELETE", "models/one", None, 409, None, "flags"),
    "wait for what": ("POST", "models/one/load?wait=perhaps", None, 400, "wait", "Invalid 'wait'"),
    "no path": ("GET", "walrus", None, 404, None, "Unknown request URL"),
    "no such method": ("PUT", "pulls", None, 405, None, "Use"),
}


@pytest.fixture(scope="module")
def quiet(settings: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    allowed = ("builtin://*", "hf://*", "file:///models/*")
    with running(settings((f"one={EMBED}",), lazy=True, allow_pull=allowed, state_dir=tmp_path_factory.mktemp("state"))) as server:
        yield server


@pytest.mark.parametrize("case", BAD)
def test_bad_requests_are_refused_with_what_to_do(quiet, case):
    method, path, body, status, param, words = BAD[case]
    answer = httpx.request(method, f"{quiet.private_url}/admin/{path}", json=body)
    assert_error(answer, status, TYPES[status], param, None, words)
    assert httpx.get(f"{quiet.private_url}/admin/pulls").json()["data"] == []
