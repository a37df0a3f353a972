"""Faults: a runtime pod, the leading operator and the API server go away, and clients notice nothing."""

import asyncio
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import aiohttp
import pytest
from conftest import MakeModel
from harness import SYSTEM, Model, eventually, get, kubectl

REPEAT = int(os.environ.get("E2E_REPEAT", "1"))
STREAMS = 8
TOKENS = 100


async def test_streams_survive_a_deleted_pod(make_model: MakeModel, gateway: str) -> None:
    """The deletion is repeated E2E_REPEAT times on one model, with the streams going on all the time."""
    model = make_model("twins", scaling={"minReplicas": 2, "maxReplicas": 2})
    await asyncio.to_thread(eventually, lambda: len(_ready_pods(model)) == 2, seconds=120)
    for turn in range(REPEAT):
        done, failed = await _stream_while(model, gateway, lambda: _replace_one_pod(model))
        print(f"turn {turn + 1}: {done} streams, {len(failed)} failed")
        assert not failed
        assert done >= STREAMS


def test_another_operator_leads_when_the_leader_is_killed(make_model: MakeModel) -> None:
    leader = _leader()
    kubectl("-n", SYSTEM, "delete", "pod", leader, "--grace-period=0", "--force")
    started = time.monotonic()
    model = make_model("successor")
    model.wait_ready(90)
    print(f"a new model was ready {time.monotonic() - started:.1f} s after the leader's death")
    assert _leader() != leader


@pytest.mark.freeze
async def test_inference_goes_on_without_the_api_server(make_model: MakeModel, gateway: str) -> None:
    model = make_model("steady")
    await asyncio.to_thread(model.wait_ready)
    with _frozen_api_server():
        done, failed = await _stream_while(model, gateway, lambda: time.sleep(20))
    print(f"{done} streams in 20 s without an API server, {len(failed)} failed")
    assert not failed
    assert done >= STREAMS
    # And it still hears of changes afterwards.
    late = make_model("late")
    await asyncio.to_thread(late.wait_ready)
    await _one_stream(late, gateway)


async def _stream_while(model: Model, gateway: str, fault: Callable[[], None]) -> tuple[int, list[str]]:
    """Runs streams one after another on each of 8 connections until the fault is over; returns how many ended well, and the others."""
    over = asyncio.Event()
    done, failed = 0, []

    async def client() -> None:
        nonlocal done
        while not over.is_set():
            try:
                await _one_stream(model, gateway)
                done += 1
            except (aiohttp.ClientError, AssertionError, TimeoutError) as failure:
                failed.append(f"{type(failure).__name__}: {failure}")

    clients = [asyncio.create_task(client()) for _ in range(STREAMS)]
    await asyncio.to_thread(fault)
    over.set()
    await asyncio.gather(*clients)
    return done, failed


async def _one_stream(model: Model, gateway: str) -> None:
    """Streams an answer; raises AssertionError unless it is whole."""
    body = {"model": model.key, "prompt": "Once", "max_tokens": TOKENS, "stream": True, "temperature": 1}
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120)) as session,
        session.post(f"{gateway}/v1/completions", json=body) as response,
    ):
        lines = [line.decode().strip() async for line in response.content if line.startswith(b"data:")]
        assert response.status == 200, f"{response.status}: {lines}"
    assert lines, "the stream ended before it began"
    assert lines[-1] == "data: [DONE]", f"cut off after {len(lines)} lines: {lines[-1]}"
    finish = [json.loads(line[5:])["choices"][0]["finish_reason"] for line in lines[:-1] if '"choices":[]' not in line]
    assert finish[-1] in ("length", "stop"), f"no reason to finish: {lines[-2]}"


def _ready_pods(model: Model) -> list[str]:
    def ready(pod: dict) -> bool:  # type: ignore[type-arg]
        conditions = pod["status"].get("conditions", [])
        return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)

    return [pod["metadata"]["name"] for pod in model.pods() if ready(pod)]


def _replace_one_pod(model: Model) -> None:
    """Deletes a pod, and returns when it is gone and another one is ready in its place."""
    victim = _ready_pods(model)[0]
    kubectl("-n", model.namespace, "delete", "pod", victim, "--timeout=120s")
    eventually(lambda: len(_ready_pods(model)) == 2, seconds=120)


def _leader() -> str:
    def holder() -> str:
        spec = get("-n", SYSTEM, "lease", "modelyard-operator")["spec"]
        return str(spec.get("holderIdentity") or "")

    return eventually(holder, seconds=30)


@contextmanager
def _frozen_api_server() -> Iterator[None]:
    freezer = os.environ["E2E_FREEZE"].split()
    subprocess.run([*freezer, "pause", "kube-apiserver"], check=True)
    try:
        yield
    finally:
        subprocess.run([*freezer, "resume", "kube-apiserver"], check=True)
