"""Processes that start before they are asked."""

import gc
import os
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest
from modelyard_runtime.child import Child, end_early, start_early
from modelyard_runtime.collecting import importing

TEMPLATES = "modelyard_runtime.models.template_worker"


@pytest.fixture(autouse=True)
def _none_left() -> Iterator[None]:
    end_early()
    yield
    end_early()


def running(module: str) -> set[int]:
    """Returns the numbers of this process's children that run a module."""
    return {child.pid for child in psutil.Process().children() if module in child.cmdline()}


def started_early(times: int = 1) -> int:
    """Has the process started, so often, and returns the number of the only one that there is."""
    before = running(TEMPLATES)
    for _ in range(times):
        start_early(TEMPLATES)
    (early,) = running(TEMPLATES) - before
    return early


@pytest.fixture
def child() -> Iterator[Child]:
    child = Child(TEMPLATES, {}, most_bytes=1 << 20)
    yield child
    child.close()


def question(text: str) -> dict[str, object]:
    return {"conversations": [[]], "chat_template": text}


def test_the_next_child_asks_the_process_that_started_early(child: Child) -> None:
    early = started_early(times=2)
    assert child.ask(question("hello"), 5) == {"text": "hello"}
    assert child.process is not None
    assert child.process.pid == early
    end_early()
    assert child.ask(question("still here"), 5) == {"text": "still here"}


def test_ctrl_c_at_the_server_s_terminal_does_not_reach_a_child_that_still_imports() -> None:
    early = started_early()
    assert os.getpgid(early) != os.getpgid(0)


def test_what_started_early_and_has_died_is_replaced(child: Child) -> None:
    process = psutil.Process(started_early())
    process.kill()
    psutil.wait_procs([process])
    assert child.ask(question("hello"), 5) == {"text": "hello"}


def test_what_nobody_asked_is_ended() -> None:
    before = running(TEMPLATES)
    start_early(TEMPLATES)
    assert running(TEMPLATES) - before
    end_early()
    assert not running(TEMPLATES) - before


def test_a_process_that_is_never_asked_ends_with_its_server_and_says_nothing() -> None:
    ended = subprocess.run([sys.executable, "-m", "modelyard_runtime.structured.worker"], input=b"", capture_output=True, check=True)
    assert (ended.stdout, ended.stderr) == (b"", b"")


def test_the_collector_is_as_before_after_an_import() -> None:
    before = gc.get_threshold()
    with importing():
        assert gc.get_threshold() > before
    assert gc.get_threshold() == before
