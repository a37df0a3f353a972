"""A server on loopback that speaks the hub's endpoints."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

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
    """What the hub has, and what it was asked for. ``stall`` bytes of a large file are sent, and the rest when ``go`` is set.

    One that is ``endless`` sends more of a large file than there is, for as long as anybody listens.
    """

    files: dict[str, bytes] = field(default_factory=lambda: dict(FILES))
    token: str = ""
    url: str = ""
    asked: list[str] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)
    stall: int = 0
    endless: bool = False
    stalled: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)

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
            headers = {"etag": f'"{oid(data)}"', "x-repo-commit": COMMIT, "accept-ranges": "bytes"}
            wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("range", ""))
            if wanted is None:
                return self.reply(200, data, headers)
            if hub.endless and len(data) > 1_000_000:
                return self.flood(headers)
            hub.ranges.append(f"{name} {wanted[0]}")
            begin = int(wanted[1])
            return self.reply(206, data[begin:], headers | {"content-range": f"bytes {begin}-{len(data) - 1}/{len(data)}"})

        def flood(self, headers: dict[str, str]) -> None:
            self.close_connection = True
            self.send_response(206)
            for key, value in headers.items():
                self.send_header(key, value)
            self.end_headers()
            with suppress(ConnectionError):
                while True:
                    self.wfile.write(bytes(1 << 20))

        def reply(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for key, value in ({"content-type": "application/json", "content-length": str(len(body))} | (headers or {})).items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "GET":
                return
            if hub.stall and len(body) > hub.stall and not hub.go.is_set():
                self.wfile.write(body[: hub.stall])
                hub.stalled.set()
                hub.go.wait()
                body = body[hub.stall :]
            with suppress(ConnectionError):  # the client was killed
                self.wfile.write(body)

    return Handler


def oid(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


@contextmanager
def serving() -> Iterator[Hub]:
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield hub
    hub.go.set()
    server.shutdown()
    server.server_close()
