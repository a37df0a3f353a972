"""/admin on the private port, API keys, and pulls that survive the process."""

import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from modelyard_runtime.serving.jobs import Job, JobStore, State, StoreTaken

from .conftest import Running, logged, wait_until
from .hub import Hub, serving

EMBED = "builtin://tiny-embed"
KEY = {"authorization": "Bearer open-sesame"}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as hub:
        yield hub


@pytest.fixture
def server(start: Callable[..., Running], tmp_path: Path) -> Running:
    return start((f"one={EMBED}",), lazy=True, state_dir=tmp_path / "state")


def get(server: Running, path: str, **more: Any) -> httpx.Response:
    return httpx.get(f"{server.private_url}/admin/{path}", timeout=60, **more)


def post(server: Running, path: str, body: Any = None, **more: Any) -> httpx.Response:
    return httpx.post(f"{server.private_url}/admin/{path}", json=body, timeout=60, **more)


def delete(server: Running, path: str, **more: Any) -> httpx.Response:
    return httpx.delete(f"{server.private_url}/admin/{path}", timeout=60, **more)


def pulled(server: Running, body: dict[str, Any]) -> dict[str, Any]:
    job = post(server, "pulls", body).json()
    wait_until(lambda: get(server, f"pulls/{job['id']}").json()["state"] in {"done", "failed", "cancelled"}, "the pull has ended")
    return get(server, f"pulls/{job['id']}").json()


def test_models_are_loaded_and_unloaded_on_demand(server):
    assert get(server, "models/one").json()["status"] == "unloaded"
    begun = post(server, "models/one/load")
    assert begun.status_code in {200, 202}
    loaded = post(server, "models/one/load?wait=true").json()
    assert loaded["status"] == "ready"
    assert loaded["memory"] > 0
    stats = get(server, "stats").json()
    assert stats["memory"]["models"] == loaded["memory"]
    assert stats["models"]["one"]["running"] == 0
    assert [model["id"] for model in get(server, "models").json()["data"]] == ["one"]
    unloaded = post(server, "models/one/unload").json()
    assert (unloaded["status"], unloaded["memory"]) == ("unloaded", 0)
    assert post(server, "models/one/unload").status_code == 200, "again is no error"


def test_diagnostics_show_what_it_runs_on_and_no_secret(start, tmp_path):
    server = start((f"one={EMBED}",), lazy=True, admin_key="open-sesame", state_dir=tmp_path)
    shown = get(server, "diagnostics", headers=KEY)
    assert "open-sesame" not in shown.text
    told = shown.json()
    assert told["versions"]["torch"]
    assert told["memory"]["limit"] >= told["memory"]["available"]
    assert told["settings"]["max_pulls"] == 2
    process = told["process"]
    assert process["tasks"]["Server.run_until_told"] >= 2, "one for each port"
    assert min(process["threads"], process["files"]) > 0


def test_diagnostics_show_child_processes(start):
    server = start()
    schema = {"type": "json_schema", "json_schema": {"name": "any", "schema": {"type": "object"}}}
    chat = {"model": server.name, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1, "response_format": schema}
    assert httpx.post(f"{server.url}/v1/chat/completions", json=chat, timeout=60).status_code == 200
    children = get(server, "diagnostics").json()["process"]["children"]
    assert any(child["runs"] == "modelyard_runtime.structured.worker" and child["resident"] > 0 for child in children)


def test_a_failed_model_shows_why(start):
    server = start((f"one={EMBED}", "gone=file:///nowhere/nothing"), lazy=True)
    assert post(server, "models/gone/load?wait=true").status_code == 202
    failure = get(server, "models/gone").json()["failure"]
    assert failure["reason"] == "WeightsNotFound"
    assert "/nowhere/nothing does not exist" in failure["message"]
    assert "check the path" in failure["remedy"]
    assert 0 < failure["retry_after"] <= 30


def test_admin_needs_its_key_and_metrics_do_not(start, tmp_path):
    (tmp_path / "keys").write_text("first-key\nopen-sesame\n")
    server = start((f"one={EMBED}",), lazy=True, admin_key_file=tmp_path / "keys")
    for headers in ({}, {"authorization": "Bearer open-sesam"}, {"authorization": "open-sesame"}, {"authorization": "Basic open-sesame"}):
        refused = get(server, "models", headers=headers)
        assert refused.status_code == 401
        assert refused.json()["error"]["type"] == "authentication_error"
        assert refused.json()["error"]["code"] == "invalid_api_key"
    assert httpx.post(f"{server.private_url}/admin/nothing").status_code == 401, "what exists is not told either"
    assert get(server, "models", headers=KEY).status_code == 200
    assert get(server, "models", headers={"x-api-key": "first-key"}).status_code == 200
    assert httpx.get(f"{server.private_url}/metrics").status_code == 200
    assert httpx.get(f"{server.private_url}/progress").status_code == 200


def test_every_path_of_the_public_port_but_the_probes_needs_its_key(start):
    server = start((f"one={EMBED}",), lazy=True, api_key="open-sesame")
    paths = ["/v1/models", "/v1/embeddings", "/v1/chat/completions", "/tokenize", "/openapi.json", "/nothing", "/health/", "//health"]
    for path in paths:
        for method in ("GET", "POST"):
            assert httpx.request(method, f"{server.url}{path}").status_code == 401, path
    assert httpx.get(f"{server.url}/health").status_code == 200
    assert httpx.get(f"{server.url}/ready").status_code == 200
    body = {"model": "one", "input": "Hello"}
    assert httpx.post(f"{server.url}/v1/embeddings", json=body, headers=KEY, timeout=60).status_code == 200
    assert get(server, "models").status_code == 200, "the private port has a key of its own, or none"


def test_a_pulled_model_may_be_asked_for_also_after_a_restart(start, tmp_path):
    own = {"lazy": True, "state_dir": tmp_path / "state", "cache_dir": tmp_path / "cache"}
    server = start((f"one={EMBED}",), **own)
    job = pulled(server, {"source": "builtin://tiny-embed", "name": "two", "aliases": ["zwei"], "max_prompt_tokens": 4})
    assert job["state"] == "done"
    assert job["name"] == "two"
    body = {"model": "zwei", "input": "Hello there, how are you doing"}
    assert "4 tokens" in httpx.post(f"{server.url}/v1/embeddings", json=body, timeout=60).text
    server.told(2)
    server.join()
    again = start((f"one={EMBED}",), **own)
    assert httpx.post(f"{again.url}/v1/embeddings", json=body | {"input": "Hi"}, timeout=60).status_code == 200
    assert [one["id"] for one in get(again, "pulls").json()["data"]] == [job["id"]]
    assert delete(again, "models/one").json()["error"]["code"] == "conflict"
    assert delete(again, "models/two").json()["deleted"]
    assert httpx.post(f"{again.url}/v1/embeddings", json=body, timeout=60).status_code == 404
    assert list((tmp_path / "cache" / "builtin").glob("tiny-embed*")), "another model has the same weights"


def test_a_removed_model_s_weights_go_when_nobody_else_needs_them(start, tmp_path):
    server = start((f"one={EMBED}",), lazy=True, cache_dir=tmp_path)
    pulled(server, {"source": "builtin://tiny-chat"})
    assert list((tmp_path / "builtin").glob("tiny-chat*"))
    assert delete(server, "models/tiny-chat").status_code == 200
    assert not list((tmp_path / "builtin").glob("tiny-chat*"))


def test_a_pull_that_only_fetches(server):
    job = pulled(server, {"source": "builtin://tiny-chat", "serve": False})
    assert (job["state"], job["name"]) == ("done", None)
    assert [model["id"] for model in get(server, "models").json()["data"]] == ["one"]


def test_a_failed_pull_says_why(server):
    job = pulled(server, {"source": "builtin://nothing"})
    assert (job["state"], job["reason"]) == ("failed", "WeightsNotFound")
    assert "tiny-chat" in job["remedy"]


def test_a_server_has_so_many_models_at_most(server, monkeypatch):
    monkeypatch.setattr("modelyard_runtime.serving.pulls.MOST_MODELS", 1)
    refused = post(server, "pulls", {"source": "builtin://tiny-chat"})
    assert refused.status_code == 503
    assert "Remove some" in refused.json()["error"]["message"]
    assert pulled(server, {"source": "builtin://tiny-chat", "serve": False})["state"] == "done"


def test_progress_is_streamed(server):
    job = post(server, "pulls", {"source": "builtin://tiny-chat", "serve": False}).json()
    lines = get(server, f"pulls/{job['id']}?stream=true").text.splitlines()
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    assert events[-1]["state"] == "done"
    assert lines[-2] == "data: [DONE]"


@pytest.fixture
def process(command: Callable[..., Any], hub: Hub, tmp_path: Path) -> Callable[..., tuple[Any, str]]:
    """Starts a server as a process of its own and returns it and the address of /admin; ``silence`` seconds of the hub are borne."""

    def begin(silence: int = 600) -> tuple[Any, str]:
        flags = [f"one={EMBED}", "--lazy", "--port=0", "--metrics-port=0", f"--cache-dir={tmp_path / 'cache'}", "--max-pulls=1"]
        bounds = {"HF_HUB_ETAG_TIMEOUT": "5", "HF_HUB_DOWNLOAD_TIMEOUT": str(silence)}
        running = command("serve", *flags, HF_ENDPOINT=hub.url, HF_HUB_DISABLE_XET="1", **bounds)
        return running, f"http://127.0.0.1:{logged(running, 'listening')['metricsPort']}/admin"

    return begin


def test_pulls_survive_a_kill_and_go_on_where_they_were(process, hub, tmp_path):
    hub.stall = 1_500_000
    first, admin = process()
    job = httpx.post(f"{admin}/pulls", json={"source": "hf://org/name", "serve": False}).json()
    waits = httpx.post(f"{admin}/pulls", json={"source": "builtin://tiny-chat", "serve": False}).json()
    assert hub.stalled.wait(60)
    parts = tmp_path / "cache" / "downloads"
    wait_until(lambda: any(file.stat().st_size > 1_000_000 for file in parts.glob("*.part")), "a part is on the disk")
    assert httpx.get(f"{admin}/pulls/{job['id']}").json()["state"] == "running"
    assert httpx.get(f"{admin}/pulls/{waits['id']}").json()["state"] == "queued", "one at a time"
    first.kill()
    first.wait()
    hub.go.set()
    _, admin = process()
    for identity in (job["id"], waits["id"]):
        wait_until(lambda one=identity: httpx.get(f"{admin}/pulls/{one}").json()["state"] == "done", "it is taken up again")
    assert any(int(one.split("=")[1][:-1]) > 1_000_000 for one in hub.ranges), "not from the beginning"
    assert not list(parts.glob("*.part"))


def test_a_pull_is_cancelled_while_it_runs_and_while_it_waits(process, hub):
    hub.stall = 1_500_000
    _, admin = process()
    running = httpx.post(f"{admin}/pulls", json={"source": "hf://org/name"}).json()
    waiting = httpx.post(f"{admin}/pulls", json={"source": "builtin://tiny-chat"}).json()
    assert hub.stalled.wait(60)
    assert httpx.delete(f"{admin}/pulls/{waiting['id']}", timeout=30).json()["state"] == "cancelled"
    hub.go.set()
    assert httpx.delete(f"{admin}/pulls/{running['id']}", timeout=30).json()["state"] in {"cancelled", "done"}
    assert httpx.get(f"{admin}/pulls/{waiting['id']}").json()["state"] == "cancelled"


def _ended(admin: str, body: dict[str, Any]) -> dict[str, Any]:
    job = httpx.post(f"{admin}/pulls", json=body, timeout=60).json()
    wait_until(lambda: httpx.get(f"{admin}/pulls/{job['id']}").json()["state"] in {"done", "failed"}, "the pull has ended")
    return httpx.get(f"{admin}/pulls/{job['id']}").json()


def test_a_hub_that_falls_silent_holds_up_no_other_pull(process, hub):
    hub.stall = 1_500_000
    _, admin = process(silence=1)
    silent = httpx.post(f"{admin}/pulls", json={"source": "hf://org/name"}).json()
    assert hub.stalled.wait(60)
    assert httpx.delete(f"{admin}/pulls/{silent['id']}", timeout=60).json()["state"] == "cancelled"
    assert _ended(admin, {"source": "builtin://tiny-chat", "serve": False})["state"] == "done"
    assert httpx.get(f"{admin}/pulls/{silent['id']}").json()["state"] == "cancelled"


def test_a_pull_is_cancelled_at_once_however_long_the_hub_is_silent(process, hub):
    hub.stall = 1_500_000
    first, admin = process(silence=600)
    silent = httpx.post(f"{admin}/pulls", json={"source": "hf://org/name"}).json()
    assert hub.stalled.wait(60)
    assert httpx.delete(f"{admin}/pulls/{silent['id']}", timeout=9).json()["state"] == "cancelled"
    first.kill()
    first.wait()
    _, admin = process()
    assert httpx.get(f"{admin}/pulls/{silent['id']}").json()["state"] == "cancelled"


def test_revisions_share_their_weights(process, tmp_path):
    _, admin = process()
    for name, source in (("new", "hf://org/name"), ("old", "hf://org/name@v1")):
        assert _ended(admin, {"source": source, "name": name})["state"] == "done"
    held = tmp_path / "cache" / "hub" / "models--org--name"
    assert httpx.delete(f"{admin}/models/old", timeout=60).status_code == 200
    assert list((held / "blobs").iterdir()), "the other revision is of the same files"
    assert httpx.delete(f"{admin}/models/new", timeout=60).status_code == 200
    assert not held.exists()


def test_what_is_pulled_is_not_removed_meanwhile(process, hub, tmp_path):
    _, admin = process()
    assert _ended(admin, {"source": "hf://org/name", "name": "one-more"})["state"] == "done"
    hub.files["model.safetensors"] = b"n" * 3_000_000
    hub.stall = 1_500_000
    again = httpx.post(f"{admin}/pulls", json={"source": "hf://org/name", "name": "again"}).json()
    assert hub.stalled.wait(60)
    assert httpx.delete(f"{admin}/models/one-more", timeout=60).status_code == 200
    assert list((tmp_path / "cache" / "hub" / "models--org--name" / "blobs").iterdir())
    hub.go.set()
    wait_until(lambda: httpx.get(f"{admin}/pulls/{again['id']}").json()["state"] not in {"queued", "running"}, "the pull has ended")
    assert httpx.get(f"{admin}/pulls/{again['id']}").json()["state"] == "done"


def test_a_pull_that_could_not_be_saved_is_none(server, tmp_path):
    assert pulled(server, {"source": "builtin://tiny-chat", "serve": False})["state"] == "done"
    body = {"source": "builtin://tiny-embed", "serve": False}
    with closing(sqlite3.connect(tmp_path / "state" / "jobs.sqlite")) as other:
        other.execute("BEGIN IMMEDIATE")
        assert post(server, "pulls", body).json()["error"]["code"] == "pulls_unavailable"
        other.rollback()
    assert pulled(server, body)["state"] == "done"


def test_the_same_pull_twice_is_one(process, hub):
    hub.stall = 1_500_000
    _, admin = process()
    first = httpx.post(f"{admin}/pulls", json={"source": "hf://org/name"})
    second = httpx.post(f"{admin}/pulls", json={"source": "hf://org/name"})
    assert (first.status_code, second.status_code) == (202, 200)
    assert first.json()["id"] == second.json()["id"]
    hub.go.set()


def test_two_servers_do_not_share_a_file(server, start, tmp_path):
    assert pulled(server, {"source": "builtin://tiny-chat"})["state"] == "done"
    other = start((f"one={EMBED}",), lazy=True, state_dir=tmp_path / "state")
    refused = post(other, "pulls", {"source": "builtin://tiny-chat"})
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "pulls_unavailable"
    assert "--state-dir" in refused.json()["error"]["message"]


def test_a_file_that_is_no_database_is_told(start, tmp_path):
    (tmp_path / "jobs.sqlite").write_bytes(b"no database " * 1000)
    server = start((f"one={EMBED}",), lazy=True, state_dir=tmp_path)
    refused = post(server, "pulls", {"source": "builtin://tiny-chat"})
    assert refused.status_code == 503
    assert "--state-dir" in refused.json()["error"]["message"]
    assert get(server, "models").status_code == 200


def test_ended_jobs_are_forgotten_at_last_and_open_ones_never(tmp_path, monkeypatch):
    store = JobStore(tmp_path / "jobs.sqlite")
    monkeypatch.setattr("modelyard_runtime.serving.jobs.KEPT", 3)
    store.save(Job("hf://open/one", created=0.0))
    for index in range(5):
        store.save(Job(f"hf://org/{index}", state=State.DONE, created=time.time() + index))
    assert [job.source for job in store.jobs()] == ["hf://open/one", "hf://org/2", "hf://org/3", "hf://org/4"]
    with pytest.raises(StoreTaken):
        JobStore(tmp_path / "jobs.sqlite")
    store.close()
    again = JobStore(tmp_path / "jobs.sqlite")
    assert len(again.jobs()) == 4
    again.close()


def test_the_process_forgets_ended_jobs_as_its_file_does(server, monkeypatch):
    monkeypatch.setattr("modelyard_runtime.serving.pulls.KEPT", 2)
    made = [pulled(server, {"source": EMBED, "serve": False})["id"] for _ in range(5)]
    assert [job["id"] for job in get(server, "pulls").json()["data"]] == made[-3:], "two, and the one that came last"


def test_a_remembered_model_that_cannot_be_any_more_stops_nothing(start, tmp_path):
    store = JobStore(tmp_path / "jobs.sqlite")
    store.add_model("old", {"source": "gopher://old/model"})
    store.add_model("older", {"source": EMBED, "name": "older", "a_setting_of_the_past": 1})
    store.add_model("good", {"source": EMBED, "name": "good"})
    store.close()
    server = start((f"one={EMBED}",), lazy=True, state_dir=tmp_path)
    assert [model["id"] for model in get(server, "models").json()["data"]] == ["one", "good"]


def test_stats_count_pulls(server):
    assert pulled(server, {"source": "builtin://nothing"})["state"] == "failed"
    assert get(server, "stats").json()["pulls"] == {"failed": 1}


def test_a_file_of_a_later_version_is_left_alone(tmp_path):
    with sqlite3.connect(tmp_path / "jobs.sqlite") as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(sqlite3.DatabaseError, match="another version"):
        JobStore(tmp_path / "jobs.sqlite")
