"""s3:// against moto's S3 server, a process of its own that speaks HTTP."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
from modelyard_runtime.errors import ArgumentsInvalid, DownloadFailed, RuntimeFailed, Unauthorized, UnsupportedModel, WeightsNotFound
from modelyard_runtime.progress import Phase, Step, Stopped
from modelyard_runtime.sources import builtin
from modelyard_runtime.sources.resolve import remove, resolve
from modelyard_runtime.sources.source import Bucket, parse

from .conftest import wait_until

_SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    server = subprocess.Popen(
        [sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert server.stdout is not None
    yield f"http://127.0.0.1:{server.stdout.readline().strip()}"
    server.communicate("")


@pytest.fixture
def bucket(address: str, monkeypatch: pytest.MonkeyPatch, cache_dir: Path) -> Iterator[Any]:
    """A bucket with a tiny model in the folder `models/tiny`, and what must not be fetched beside it."""
    for name, value in (KEYS | {"AWS_ENDPOINT_URL": address}).items():
        monkeypatch.setenv(name, value)
    httpx.post(f"{address}/moto-api/reset")
    client = boto3.client("s3", endpoint_url=address)
    client.create_bucket(Bucket="weights")
    folder = builtin.resolve("tiny-embed", cache_dir, (), lambda step: None)
    for file in folder.rglob("*"):
        if file.is_file():
            client.put_object(Bucket="weights", Key=f"models/tiny/{file.relative_to(folder)}", Body=file.read_bytes())
    client.put_object(Bucket="weights", Key="models/tiny/pytorch_model.bin", Body=b"pickle")
    client.put_object(Bucket="weights", Key="models/tiny/modeling.py", Body=b"raise SystemExit")
    client.put_object(Bucket="weights", Key="models/other/config.json", Body=b"{}")
    yield client
    client.close()


def fetch(cache: Path, source: str = "s3://weights/models/tiny", report: Callable[[Step], None] = lambda step: None) -> Path:
    return resolve(source, cache_dir=cache, progress=report)


def test_a_folder_is_fetched_whole_and_nothing_that_runs(bucket, tmp_path, cache_dir):
    steps: list[Step] = []
    folder = fetch(tmp_path, report=steps.append)
    origin = builtin.resolve("tiny-embed", cache_dir, (), lambda step: None)
    assert {path.relative_to(folder) for path in folder.rglob("*")} == {path.relative_to(origin) for path in origin.rglob("*")}
    assert (folder / "model.safetensors").read_bytes() == (origin / "model.safetensors").read_bytes()
    assert steps[-1].phase is Phase.DOWNLOAD
    assert steps[-1].fraction == 1.0


def test_it_is_served(bucket, start, tmp_path):
    server = start("s3://weights/models/tiny/", cache_dir=tmp_path)
    answer = httpx.post(f"{server.url}/v1/embeddings", json={"model": "tiny", "input": "Hello"}, timeout=60)
    assert answer.status_code == 200


def test_what_has_not_changed_is_not_fetched_again_and_what_has_is(bucket, tmp_path):
    first = fetch(tmp_path)
    steps: list[Step] = []
    assert fetch(tmp_path, report=steps.append) == first
    assert [step.phase for step in steps] == [Phase.RESOLVE]
    config = json.loads((first / "config.json").read_text()) | {"changed": True}
    bucket.put_object(Bucket="weights", Key="models/tiny/config.json", Body=json.dumps(config).encode())
    second = fetch(tmp_path)
    assert second != first
    assert json.loads((second / "config.json").read_text())["changed"]


def test_an_interrupted_download_goes_on(bucket, tmp_path):
    large = b"w" * (20 << 20)
    bucket.put_object(Bucket="weights", Key="models/tiny/more.safetensors", Body=large)

    def stop(step: Step) -> None:
        if step.bytes_done > 8 << 20:
            raise Stopped

    with pytest.raises(Stopped):
        fetch(tmp_path, report=stop)
    assert not list((tmp_path / "s3").glob("*/[!.]*/config.json")), "it is not a model yet"
    part = next((tmp_path / "s3").glob("*/.staging-*/more.safetensors")).stat()
    assert part.st_size > 0
    folder = fetch(tmp_path)
    assert (folder / "more.safetensors").stat().st_ino == part.st_ino, "the part was gone on with"
    assert (folder / "more.safetensors").read_bytes() == large


def test_a_store_that_cannot_be_reached_is_no_end_where_the_cache_has_it(bucket, tmp_path, monkeypatch):
    folder = fetch(tmp_path)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    assert fetch(tmp_path) == folder
    with pytest.raises(DownloadFailed) as failed:
        fetch(tmp_path / "empty")
    assert "AWS_ENDPOINT_URL" in failed.value.remedy


def test_damaged_weights_are_fetched_again(bucket, start, tmp_path):
    folder = fetch(tmp_path)
    (folder / "model.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00nonsense")
    server = start("s3://weights/models/tiny", cache_dir=tmp_path)
    assert httpx.post(f"{server.url}/v1/embeddings", json={"model": "tiny", "input": "Hello"}, timeout=60).status_code == 200
    assert remove("s3://weights/models/tiny", tmp_path)
    assert not folder.exists()


CAUSES: dict[str, tuple[str, type[RuntimeFailed], str]] = {
    "no bucket": ("s3://nothing/models/tiny", WeightsNotFound, "does not exist"),
    "no folder": ("s3://weights/models/nothing", WeightsNotFound, "s3://weights/models/nothing"),
    "no weights": ("s3://weights/models/other", UnsupportedModel, "safetensors"),
}


@pytest.mark.parametrize("case", CAUSES)
def test_what_is_not_there_is_told(bucket, tmp_path, case):
    source, cause, words = CAUSES[case]
    with pytest.raises(cause) as failed:
        fetch(tmp_path, source)
    assert words in failed.value.message


def test_without_credentials_it_says_which(bucket, tmp_path, monkeypatch):
    for name in KEYS:
        monkeypatch.delenv(name)
    for name, value in (
        ("AWS_EC2_METADATA_DISABLED", "true"),
        ("AWS_CONFIG_FILE", os.devnull),
        ("AWS_SHARED_CREDENTIALS_FILE", os.devnull),
    ):
        monkeypatch.setenv(name, value)
    with pytest.raises(Unauthorized) as failed:
        fetch(tmp_path)
    assert "AWS_ACCESS_KEY_ID" in failed.value.remedy
    assert "spec.model.credentialsSecret" in failed.value.remedy


def test_a_killed_process_s_download_goes_on(bucket, command, tmp_path):
    bucket.put_object(Bucket="weights", Key="models/tiny/more.safetensors", Body=b"w" * (64 << 20))
    source = ("pull", "s3://weights/models/tiny", "--cache-dir", str(tmp_path / "cache"))
    first = command(*source)
    staged = tmp_path / "cache" / "s3"
    wait_until(lambda: any(path.stat().st_size >= 8 << 20 for path in staged.glob("*/.staging-*/more.safetensors")), "a part is there")
    first.send_signal(signal.SIGKILL)
    first.wait()
    part = next(staged.glob("*/.staging-*/more.safetensors"))
    inode = part.stat().st_ino
    out, _ = command(*source).communicate(timeout=60)
    assert (Path(out.strip()) / "more.safetensors").stat().st_ino == inode, "the part was gone on with"
    assert (Path(out.strip()) / "more.safetensors").stat().st_size == 64 << 20


def test_buckets_are_parsed():
    assert parse("s3://weights/models/tiny/") == Bucket("s3", "weights", "models/tiny")
    assert parse("gs://weights/tiny") == Bucket("gs", "weights", "tiny")


@pytest.mark.parametrize(
    "text",
    ["s3://weights", "s3://weights/", "s3://weights/a//b", "s3://UPPER/x", "s3://w/x", "s3:///x"],
)
def test_other_buckets_are_refused(text):
    with pytest.raises(ArgumentsInvalid, match="does not name a folder of a bucket"):
        parse(text)


@pytest.mark.parametrize("text", ["s3://weights/..", "gs://weights/a/../b"])
def test_ways_out_of_a_bucket_are_refused(text):
    with pytest.raises(ArgumentsInvalid, match="has a way up in it"):
        parse(text)
