"""gs:// by gcsfs, against a server on loopback that speaks what it asks of Google Cloud Storage: lists and ranges."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from modelyard_runtime.errors import DownloadFailed, WeightsNotFound
from modelyard_runtime.sources.resolve import resolve

FILES = {
    "models/tiny/config.json": b"{}",
    "models/tiny/model.safetensors": b"w" * 3_000_000,
    "models/tiny/modeling.py": b"raise SystemExit",
}


def facts(name: str) -> dict[str, str]:
    digest = base64.b64encode(hashlib.md5(FILES[name]).digest()).decode()
    return {"kind": "storage#object", "name": name, "bucket": "weights", "size": str(len(FILES[name])), "etag": digest, "md5Hash": digest}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        return

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query, name = parse_qs(url.query), unquote(url.path).partition("/o/")[2]
        if url.path.endswith("/b/broken/o"):
            self.reply(400, b'{"error": {"code": 400, "message": "Billing is off"}}')
        elif url.path.endswith("/b/weights/o"):
            found = [facts(one) for one in FILES if one.startswith(query.get("prefix", [""])[0])]
            self.reply(200, json.dumps({"kind": "storage#objects", "items": found}).encode())
        elif name not in FILES:
            self.reply(404, b'{"error": {"code": 404, "message": "No such object"}}')
        elif query.get("alt") != ["media"]:
            self.reply(200, json.dumps(facts(name)).encode())
        else:
            begin, end = map(int, re.findall(r"\d+", self.headers["range"]))
            self.reply(206, FILES[name][begin : end + 1])

    def reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture(autouse=True)
def google(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{server.server_port}")
    yield
    server.shutdown()
    server.server_close()


def test_a_folder_is_fetched(tmp_path: Path):
    folder = resolve("gs://weights/models/tiny", cache_dir=tmp_path, progress=lambda step: None)
    assert {path.name: path.stat().st_size for path in folder.iterdir()} == {"config.json": 2, "model.safetensors": 3_000_000}


def test_no_folder_is_told(tmp_path: Path):
    with pytest.raises(WeightsNotFound, match="gs://weights/models/none") as failure:
        resolve("gs://weights/models/none", cache_dir=tmp_path, progress=lambda step: None)
    assert "gs://bucket/folder" in failure.value.remedy


def test_what_the_store_says_is_told_without_the_variables_of_another_store(tmp_path: Path):
    with pytest.raises(DownloadFailed, match=r"cannot read gs://broken/tiny.*Billing is off") as failure:
        resolve("gs://broken/tiny", cache_dir=tmp_path, progress=lambda step: None)
    assert "network" in failure.value.remedy
    assert "AWS" not in failure.value.remedy
