"""What each path means: what replicas are asked, what the gateway answers from its catalogue, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from modelyard.api.errors import ApiError, Forbidden, MethodNotAllowed, ModelNotFound, UnknownPath
from modelyard.api.names import OLLAMA_PATH
from modelyard.gateway import catalogue, ollama
from modelyard.gateway.directory import Directory
from modelyard.gateway.types import ModelRecord
from modelyard.gateway.wire import TEXT_TYPE, Answer

_MODELS = b"/v1/models"
_OLLAMA = OLLAMA_PATH.encode()
_LATEST = ":latest"

#: What is passed on to a replica of the model that the body names.
PASSED = frozenset(
    (
        b"/v1/chat/completions", b"/v1/responses", b"/v1/completions", b"/v1/embeddings", b"/v1/audio/transcriptions",
        b"/v1/audio/translations", b"/v1/rerank", b"/v2/rerank", b"/rerank", b"/v1/score", b"/score", b"/v1/classify", b"/classify",
        b"/tokenize", b"/detokenize", b"/api/chat", b"/api/generate", b"/api/embed", b"/api/embeddings", b"/api/show",
    )
)  # fmt: skip

#: What the gateway knows by itself.
_ANSWERED: dict[bytes, Callable[[Directory], Answer]] = {
    b"/": lambda _: Answer(200, TEXT_TYPE, b"Modelyard is running"),
    _MODELS: catalogue.list_models,
    b"/api/tags": ollama.list_models,
    b"/api/ps": ollama.list_running,
    b"/api/version": lambda _: ollama.version(),
}


class _Refused(NamedTuple):
    method: bytes
    what: str


#: What changes which models there are.
_REFUSED = {
    b"/api/pull": _Refused(b"POST", "pulled"),
    b"/api/create": _Refused(b"POST", "created"),
    b"/api/copy": _Refused(b"POST", "copied"),
    b"/api/push": _Refused(b"POST", "pushed"),
    b"/api/delete": _Refused(b"DELETE", "deleted"),
}


def answer(directory: Directory, method: bytes, path: bytes) -> Answer:
    """Returns what the gateway itself says. Raises UnknownPath, MethodNotAllowed, ModelNotFound or Forbidden."""
    name = unquote_to_bytes(path[len(_MODELS) + 1 :]).decode("utf-8", "replace") if _is_of_models(path) else ""
    known = _ANSWERED.get(path.rstrip(b"/") or path)
    refused = _REFUSED.get(path)
    if name or known is not None:
        if method not in (b"GET", b"HEAD"):
            raise _wrong_method(method, path, "GET")
        return catalogue.show_model(directory, name) if known is None else known(directory)
    if refused is not None:
        if method != refused.method:
            raise _wrong_method(method, path, refused.method.decode())
        raise Forbidden(f"Models cannot be {refused.what} here: they are InferenceModels, which `kubectl` or `modelyard up` changes.")
    if path in PASSED:
        raise _wrong_method(method, path, "POST")
    raise UnknownPath(f"Unknown path {_text(path)}. The API is under /v1, and Ollama's under /api.")


def resolve(directory: Directory, target: bytes, name: str) -> ModelRecord:
    """Returns the model that a request means; Ollama's clients may put ``:latest`` behind any name. Raises ModelNotFound."""
    try:
        return directory.resolve(name)
    except ModelNotFound:
        if target.startswith(_OLLAMA) and name.endswith(_LATEST):
            return directory.resolve(name.removesuffix(_LATEST))
        raise


def _is_of_models(path: bytes) -> bool:
    return path.startswith(_MODELS) and path[len(_MODELS) :][:1] in (b"", b"/")


def _wrong_method(method: bytes, path: bytes, right: str) -> ApiError:
    return MethodNotAllowed(f"{method.decode()} is not allowed on {_text(path)}; use {right}.", right)


def _text(path: bytes) -> str:
    return path[:256].decode("ascii", "replace")
