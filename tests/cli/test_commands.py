"""Commands that need no model."""

import contextlib
import json
import os
import subprocess
import sys
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from modelyard.cli import render

from .conftest import manifest


def resource(name, namespace="default", **ready):
    return {
        "metadata": {"name": name, "namespace": namespace, "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"model": {"source": "builtin://tiny-chat"}},
        "status": {"readyReplicas": 1, "url": "http://127.0.0.1:8080/v1", "conditions": [{"type": "Ready", **ready}]},
    }


NOW = datetime(2026, 1, 1, 0, 5, tzinfo=UTC)


def test_the_table_is_kubectls():
    lines = render.resources([resource("a", status="True", reason="Ready")], now=NOW).splitlines()
    assert lines[0].split() == ["NAME", "READY", "REASON", "REPLICAS", "SOURCE", "URL", "AGE"]
    assert lines[1].split() == ["a", "True", "Ready", "1", "builtin://tiny-chat", "http://127.0.0.1:8080/v1", "5m"]


def test_the_table_shows_what_there_is_to_know():
    models = [resource("a", status="False", reason="OutOfMemory", message="Raise it."), resource("b", "other")]
    wide = render.resources(models, wide=True, now=NOW).splitlines()
    assert wide[0].startswith("NAMESPACE")
    assert wide[1].endswith("Raise it.")
    assert render.resources([]) == "No models run."


def test_the_wide_table_says_what_computes_a_model():
    model = resource("a", status="True", reason="Ready", message="1 of 1 ready.")
    tried = [{"name": "batching", "why": "no attention"}]
    model["status"]["engine"] = {
        "name": "generate",
        "device": "cpu",
        "dtype": "float32",
        "quantization": "none",
        "kernels": {"Linear": 9},
        "tried": tried,
    }
    (row,) = render.resources([model], wide=True, now=NOW).splitlines()[1:]
    assert "generate (cpu, float32, 9 Linear); not batching: no attention   1 of 1 ready." in row
    assert "generate" not in render.resources([model], now=NOW)


@pytest.mark.parametrize(("seconds", "text"), [(-1, "0s"), (119, "119s"), (120, "2m"), (7199, "119m"), (7200, "2h"), (172800, "2d")])
def test_ages_are_written_as_kubectl_does(seconds, text):
    assert render.age(seconds) == text


@pytest.mark.parametrize("command", [[], ["up"], ["chat"], ["ask"], ["get"], ["logs"], ["down"], ["validate"]])
def test_help_teaches_by_example(cli, command):
    shown = cli.run(*command, "--help")
    assert shown.returncode == 0
    assert f"modelyard {command[0] if command else 'up'}" in shown.stdout
    assert "Examples:" in shown.stdout or not command


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["get"], 1, "no `modelyard up` runs"),
        (["down"], 1, "Start one: modelyard up FILE"),
        (["logs", "m"], 1, "no `modelyard up` runs"),
        (["ask", "hello"], 1, "no `modelyard up` runs"),
        (["ask", "hello", "--url", "gopher://x"], 1, "not an http:// or https:// URL"),
        (["ask", "m", "hello", "--url", "http://127.0.0.1:9"], 1, "no answer from http://127.0.0.1:9/v1"),
        (["up", "nowhere.yaml"], 1, "nowhere.yaml: No such file or directory"),
        (["validate", "nowhere.yaml"], 1, "nowhere.yaml: No such file or directory"),
        (["up", "x.yaml", "--pvc", "claim"], 2, "is not NAME=PATH"),
        (["up", "x.yaml", "--port", "99999"], 2, "--port"),
        (["ask", " "], 1, "the question is empty. Ask one: "),
        (["ask", "a", "b", "c"], 2, "give the question in quotes"),
        (["fly"], 2, "No such command"),
    ],
)
def test_errors_are_told_in_a_line_with_what_to_do(cli, arguments, code, words):
    answer = cli.run(*arguments)
    assert answer.returncode == code
    assert words in answer.stderr
    assert "Traceback" not in answer.stderr
    assert answer.stdout == ""


def test_the_version(cli):
    assert cli.run("version").stdout.strip().count(".") == 2


def test_validate_lists_what_is_valid(cli):
    path = cli.write("m.yaml", json.dumps({
        "apiVersion": "modelyard.dev/v1alpha1",
        "kind": "InferenceModel",
        "metadata": {"name": "m", "namespace": "team"},
        "spec": {"model": {"source": "builtin://tiny-chat"}},
    }))  # fmt: skip
    assert cli.run("validate", str(path)).stdout == "m.yaml: inferencemodel team/m is valid\n"


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--host=192.0.2.1"], "the gateway cannot listen on 192.0.2.1: Cannot assign requested address. Choose another --host or --port"),
        (["--host=192.0.2.1", "--port=8080"], "the gateway cannot listen on 192.0.2.1: Cannot assign requested address"),
        (["--host=no.invalid"], "the gateway cannot listen on no.invalid: "),
        (["--state-dir=/dev/null/x"], "cannot keep state in /dev/null/x: Not a directory. Make room there, or choose another folder"),
    ],
)
def test_up_says_what_it_cannot_have(cli, flags, told):
    cli.write("m.yaml", manifest())
    answer = cli.run("up", "m.yaml", "--once", *flags)
    assert answer.returncode == 1
    assert answer.stderr.startswith(f"modelyard: {told}")
    assert "Unknown error" not in answer.stderr
    assert answer.stderr.count("\n") == 1


def test_pull_is_the_model_server_s_own_command(tmp_path):
    command = [sys.executable, "-m", "modelyard.cli.main", "pull"]
    shown = subprocess.run([*command, "-h"], capture_output=True, text=True, check=True)
    assert shown.stdout.startswith("usage: modelyard pull")
    pulled = subprocess.run([*command, "builtin://tiny-chat", f"--cache-dir={tmp_path}"], capture_output=True, text=True, check=False)
    assert pulled.returncode == 0, pulled.stderr
    assert list(tmp_path.rglob("model.safetensors"))


def test_serve_is_the_model_server_s_own_command():
    """It takes the process's place: help, errors and exit codes are the model server's; PyTorch is not imported for them."""
    command = [sys.executable, "-m", "modelyard.cli.main", "serve"]
    told = os.environ | {"PYTHONPROFILEIMPORTTIME": "1"}
    shown = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True, env=told)
    assert shown.stdout.startswith("usage: modelyard serve")
    assert "modelyard serve --catalogue models.yaml" in shown.stdout
    assert "modelyard_runtime.arguments" in shown.stderr
    assert "torch" not in shown.stderr
    refused = subprocess.run([*command, "builtin://tiny-chat", "--colour=red"], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "--colour" in refused.stderr


@pytest.mark.parametrize(
    ("missing", "arguments"), [("typer", ["version"]), ("torch", ["serve", "builtin://tiny-chat"]), ("fastapi", ["up", "m.yaml"])]
)
def test_what_is_not_installed_is_told_with_the_extra(missing, arguments):
    """A package that cannot be found, as in an install without the extra."""
    text = f"import sys; sys.modules[{missing!r}] = None; from modelyard.cli.main import main; main()"
    told = subprocess.run([sys.executable, "-c", text, *arguments], capture_output=True, text=True, check=False)
    assert told.returncode == 1
    assert told.stderr.startswith("modelyard: the ")
    assert told.stderr.endswith("is not installed here. Install it: pip install 'modelyard[runtime,local]'\n")


class _Server(BaseHTTPRequestHandler):
    """A server of models: one that chats, also by an alias that is not listed, and one that does not."""

    def do_GET(self) -> None:
        known = {"assistant": ["chat"], "vectors": ["embeddings"]}
        models = [{"id": name, "capabilities": capabilities} for name, capabilities in known.items()]
        paths = {"/v1/models": {"data": models}, "/v1/models/friend": models[0]}
        self.answer(200 if self.path in paths else 404, json.dumps(paths.get(self.path, {})).encode())

    def answer(self, status: int, told: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(told)))
        self.end_headers()
        self.wfile.write(told)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


class _Page(_Server):
    """A web server that has a page for everything."""

    def do_GET(self) -> None:
        self.answer(200, b"<html></html>")


class _Locked(_Server):
    """A server that wants the key `sesame`."""

    def do_GET(self) -> None:
        self.answer(200 if self.headers["authorization"] == "Bearer sesame" else 401, b'{"data": []}')


@pytest.fixture
def serving():
    """Serves by a handler for as long as the context lasts, and yields the address."""

    @contextlib.contextmanager
    def serve(handler):
        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever).start()
            try:
                yield f"http://127.0.0.1:{server.server_port}"
            finally:
                server.shutdown()

    return serve


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("nope", "there is no model nope at URL/v1. There are assistant, vectors\n"),
        ("vector", "there is no model vector at URL/v1. There are vectors, assistant\n"),
        ("vectors", "vectors cannot chat, only embeddings. There is assistant\n"),
    ],
)
def test_chat_says_at_once_that_a_model_will_not_do(cli, serving, model, words):
    """Before anything is said to it: standard input holds a message that is not sent."""
    with serving(_Server) as url:
        answer = cli.run("chat", model, "--url", url, stdin="Hello\n")
    assert answer.returncode == 1
    assert answer.stderr == f"modelyard: {words.replace('URL', url)}"


def test_chat_takes_a_name_that_is_not_listed(cli, serving):
    with serving(_Server) as url:
        answer = cli.run("chat", "friend", "--url", url, stdin="")
    assert (answer.returncode, answer.stdout) == (0, "")


def test_chat_explains_itself(cli, serving):
    """What asks for help is not sent to the model, which this server would refuse."""
    with serving(_Server) as url:
        answer = cli.run("chat", "friend", "--url", url, stdin="/help\n")
    assert (answer.returncode, answer.stdout.partition(".")[0]) == (0, "You talk to friend")


def test_what_is_no_openai_server_is_told_as_such(cli, serving):
    with serving(_Page) as url:
        answer = cli.run("ask", "hello", "--url", url)
    assert answer.returncode == 1
    assert f"what answers at {url}/v1 is no OpenAI server" in answer.stderr


@pytest.mark.parametrize(
    ("key", "words"),
    [("", "wants a key. Set MODELYARD_API_KEY to it"), ("guess", "not this one. Set MODELYARD_API_KEY"), ("sesame", "can chat")],
)
def test_a_server_gets_the_key_that_it_wants(cli, serving, key, words):
    cli.env |= {"MODELYARD_API_KEY": key}
    with serving(_Locked) as url:
        answer = cli.run("ask", "hello", "--url", url)
    assert answer.returncode == 1
    assert words in answer.stderr
