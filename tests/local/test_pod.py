"""A pod's life, with real processes."""

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path

import aiohttp
import pytest
from modelyard.api.reasons import Reason
from modelyard.controller.types import Key, PodPhase
from modelyard.local import pod as pods
from modelyard.local.pod import Pod

OWNER = Key("default", "m")


def alive(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


@pytest.fixture
async def make(host, template, news):
    made = []

    def build(spec=None, name="m-1-a"):
        pod = Pod(name, spec or template.spec(), host, owner=OWNER, revision="1", on_change=news)
        made.append(pod)
        return pod

    yield build
    for pod in made:
        pod.kill()
        await pod.gone.wait()


async def get(pod, path):
    async with aiohttp.ClientSession() as session, session.get(f"http://{pod.endpoint.host}:{pod.endpoint.port}{path}") as answer:
        return answer.status


async def test_becomes_ready_and_tells_how_it_started(make, news):
    pod = make()
    assert pod.view().phase is PodPhase.PENDING
    pod.start()
    await news.until(lambda: pod.ready)
    assert await get(pod, "/health") == 200
    view = pod.view()
    assert view.phase is PodPhase.READY
    assert view.created_at <= view.scheduled_at <= view.started_at <= view.ready_at
    assert pod.report().progress.seconds == (("load", 0.5),)
    assert pod.report().progress.capabilities == ("chat",)


async def test_takes_no_requests_while_it_is_not_ready(make, news, template):
    pod = make()
    pod.start()
    await news.until(lambda: pod.ready)
    template.unready.touch()
    await news.until(lambda: not pod.ready)
    assert pod.endpoint is None
    assert pod.view().phase is PodPhase.RUNNING
    template.unready.unlink()
    await news.until(lambda: pod.ready)


async def test_restarts_after_a_crash_and_tells_the_cause(make, news, monkeypatch):
    monkeypatch.setattr(pods, "_FIRST_PAUSE", 0.05)
    pod = make()
    pod.start()
    await news.until(lambda: pod.ready)
    with contextlib.suppress(aiohttp.ClientError):
        await get(pod, "/crash")
    await news.until(lambda: not pod.ready)
    problem = pod.view().problem
    assert (problem.reason, problem.remedy) == (Reason.OUT_OF_MEMORY, "buy some")
    assert problem.message == "replica m-1-a: no memory"
    await news.until(lambda: pod.ready)
    assert pod.view().restarts == 1
    assert pod.view().problem is None


async def test_a_process_killed_again_tells_its_last_log_line(make, news, monkeypatch):
    monkeypatch.setattr(pods, "_FIRST_PAUSE", 0.05)
    pod = make()
    pod.start()
    await news.until(lambda: pod.ready)
    os.kill(pod.pid, signal.SIGKILL)
    await news.until(lambda: not pod.ready)
    assert pod.view().problem is None  # an accident: requests are held until it is up again
    await news.until(lambda: pod.ready)
    os.kill(pod.pid, signal.SIGKILL)
    await news.until(lambda: not pod.ready)
    problem = pod.view().problem
    assert problem.reason is Reason.CRASH_LOOP
    assert "ended with exit code 137; last log line: listening" in problem.message
    assert "modelyard logs m" in problem.remedy


async def test_stops_by_finishing_what_it_works_on(make, news):
    pod = make()
    pod.start()
    await news.until(lambda: pod.ready)
    pid = pod.pid
    async with aiohttp.ClientSession() as session, session.get(f"http://{pod.endpoint.host}:{pod.endpoint.port}/slow") as answer:
        pod.stop()  # its head is here, its body is not
        assert not pod.ready
        await pod.gone.wait()
        assert await answer.read() == b"{}"
    assert not alive(pid)


async def test_one_that_ignores_the_signal_is_killed_after_its_grace_period(make, news, template):
    ignore = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    pod = make(template.spec(command=[sys.executable, "-c", ignore]) | {"terminationGracePeriodSeconds": 0.2})
    pod.start()
    await news.until(lambda: pod.pid is not None)
    pid = pod.pid
    pod.stop()
    await pod.gone.wait()
    assert not alive(pid)


async def test_one_that_does_not_become_alive_is_restarted(make, news, template, monkeypatch):
    monkeypatch.setattr(pods, "_FIRST_PAUSE", 0.05)
    deaf = {"httpGet": {"path": "/health"}, "periodSeconds": 0.05, "timeoutSeconds": 1, "failureThreshold": 2}
    pod = make(template.spec(command=[sys.executable, "-c", "import time; time.sleep(600)"], startupProbe=deaf))
    pod.start()
    await news.until(lambda: pod.view().restarts >= 2)
    assert pod.view().problem.reason is Reason.CRASH_LOOP


async def test_a_program_that_is_missing_is_a_problem(make, news, template):
    pod = make(template.spec(command=["/nonexistent/program"]))
    pod.start()
    await news.until(lambda: pod.view().problem is not None)
    assert pod.view().problem.reason is Reason.CRASH_LOOP


async def test_waits_for_devices_and_is_shown_them(make, news, template, host):
    wants = {"resources": {"limits": {"nvidia.com/gpu": "2"}}}
    first, second = make(template.spec(**wants), "m-1-a"), make(template.spec(**wants), "m-1-b")
    first.start()
    second.start()
    problem = second.view().problem
    assert problem.reason is Reason.INSUFFICIENT_GPU
    assert problem.message == "replica m-1-b: this machine has too few free devices: nvidia.com/gpu"
    await news.until(lambda: first.ready)
    first.stop()
    await first.gone.wait()
    second.start()
    await news.until(lambda: second.ready)
    environ = await asyncio.to_thread(Path(f"/proc/{second.pid}/environ").read_text)
    assert "CUDA_VISIBLE_DEVICES=0,1" in environ.split("\0")


@pytest.mark.parametrize(
    ("volume", "reason", "flag"),
    [
        ({"persistentVolumeClaim": {"claimName": "weights"}}, Reason.WEIGHTS_NOT_FOUND, "--pvc weights=FOLDER"),
        ({"secret": {"secretName": "hub"}}, Reason.UNAUTHORIZED, "--secret hub=FILE"),
    ],
)
async def test_a_volume_that_nobody_named_keeps_it_from_starting(make, template, volume, reason, flag):
    pod = make(template.spec() | {"volumes": [{"name": "v", **volume}]})
    pod.start()
    assert pod.pid is None
    assert pod.view().problem.reason is reason
    assert flag in pod.view().problem.remedy
    assert pod.view().problem.message.startswith("replica m-1-a: no f")


async def test_a_pod_that_never_started_stops_at_once(make):
    pod = make()
    pod.stop()
    assert pod.gone.is_set()
