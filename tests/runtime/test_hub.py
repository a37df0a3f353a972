"""`hf://` against a server on loopback that speaks the hub's endpoints; each attempt is a process, as HF_ENDPOINT is read once."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from modelyard.api.reasons import EXIT_CODES, Reason, Termination

COMMIT = "a" * 40
FILES = {
    "config.json": b'{"architectures": ["BertModel"]}',
    "model.safetensors": b"w" * 3_000_000,
    "tokenizer.json": b"{}",
    "1_Pooling/config.json": b"{}",
    "pytorch_model.bin": b"pickle",
    "modeling_custom.py": b"raise SystemExit",
    "onnx/model.onnx": b"o",
    "original/consolidated.safetensors": b"c",
}


@dataclass
class Hub:
    """What the hub has, and what it was asked for."""

    files: dict[str, bytes] = field(default_factory=lambda: dict(FILES))
    token: str = ""
    url: str = ""
    asked: list[str] = field(default_factory=list)

    def downloaded(self) -> set[str]:
        return {path.split(f"/resolve/{COMMIT}/")[1] for path in self.asked if path.startswith("GET") and "/resolve/" in path}


def handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            return

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            hub.asked.append(f"{self.command} {self.path}")
            path = self.path.split("?")[0]
            if hub.token and self.headers.get("authorization") != f"Bearer {hub.token}":
                return self.reply(401, b"{}", {"x-error-message": "Invalid username or password."})
            if not re.match(r"(/api/models)?/org/name(/|$)", path):
                return self.reply(404, b"{}", {"x-error-code": "RepoNotFound"})
            if path.startswith("/api/models/org/name/tree/"):
                tree = [{"type": "file", "path": name, "size": len(data), "oid": oid(data)} for name, data in hub.files.items()]
                return self.reply(200, json.dumps(tree).encode())
            if path.startswith("/api/models/org/name"):
                return self.info(path)
            return self.file(path.split("/", 5)[-1])

        def info(self, path: str) -> None:
            if path.endswith("/revision/nothing"):
                return self.reply(404, b"{}", {"x-error-code": "RevisionNotFound"})
            files = [{"rfilename": name, "size": len(data), "blobId": oid(data)} for name, data in hub.files.items()]
            return self.reply(200, json.dumps({"id": "org/name", "sha": COMMIT, "siblings": files, "tags": [], "downloads": 0}).encode())

        def file(self, name: str) -> None:
            data = hub.files.get(name)
            if data is None:
                return self.reply(404, b"", {"x-error-code": "EntryNotFound"})
            return self.reply(200, data, {"etag": f'"{oid(data)}"', "x-repo-commit": COMMIT, "accept-ranges": "bytes"})

        def reply(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for key, value in ({"content-type": "application/json", "content-length": str(len(body))} | (headers or {})).items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

    return Handler


def oid(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield hub
    server.shutdown()
    server.server_close()


@pytest.fixture
def pull(command, tmp_path, hub):
    """Pulls a source and returns its folder, or the termination of a failed attempt."""

    def run(source: str, *flags: str, endpoint: str = "") -> Path | Termination:
        process = command(
            "pull", source, "--cache-dir", str(tmp_path / "cache"), *flags, HF_ENDPOINT=endpoint or hub.url, HF_HUB_ETAG_TIMEOUT="2"
        )
        out, _ = process.communicate(timeout=60)
        if process.returncode == 0:
            return Path(out.strip())
        termination = Termination.parse((tmp_path / "termination").read_text())
        assert termination is not None
        assert process.returncode == EXIT_CODES[termination.reason]
        return termination

    return run


def test_weights_config_and_tokenizer_are_fetched_and_nothing_that_runs(pull, hub):
    folder = pull("hf://org/name")
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "1_Pooling/config.json",
    }
    assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]


def test_a_fetched_repository_outlives_the_hub(pull, hub, tmp_path):
    folder = pull("hf://org/name")
    assert pull("hf://org/name", endpoint="http://127.0.0.1:9") == folder
    assert (
        pull("hf://org/name", "--cache-dir", str(tmp_path / "other"), "--model-dir", str(tmp_path / "cache"), endpoint="http://127.0.0.1:9")
        == folder
    )


def test_a_private_repository_needs_its_token(pull, hub, tmp_path):
    hub.token = "secret-token"
    refused = pull("hf://org/name")
    assert refused.reason is Reason.UNAUTHORIZED
    assert "no token is given" in refused.message
    assert "credentialsSecret" in refused.remedy
    (tmp_path / "token").write_text("wrong-token\n")
    refused = pull("hf://org/name", "--token-file", str(tmp_path / "token"))
    assert "may not read it" in refused.message
    assert "wrong-token" not in refused.to_json()
    (tmp_path / "token").write_text("secret-token\n")
    assert pull("hf://org/name", "--token-file", str(tmp_path / "token")).is_dir()


def test_what_does_not_exist_is_told(pull):
    assert pull("hf://org/other").reason is Reason.WEIGHTS_NOT_FOUND
    missing = pull("hf://org/name@nothing")
    assert missing.reason is Reason.WEIGHTS_NOT_FOUND
    assert "'nothing'" in missing.message


def test_a_hub_that_cannot_be_reached_is_told(pull):
    failed = pull("hf://org/name", endpoint="http://127.0.0.1:9")
    assert failed.reason is Reason.DOWNLOAD_FAILED
    assert "HF_ENDPOINT" in failed.remedy


def test_repositories_without_safetensors_are_refused(pull, hub):
    del hub.files["model.safetensors"], hub.files["original/consolidated.safetensors"]
    refused = pull("hf://org/name")
    assert refused.reason is Reason.UNSUPPORTED_MODEL
    assert "safetensors" in refused.message
