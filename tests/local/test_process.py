"""No process outlives its parent, however that ends."""

import asyncio
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from modelyard.local.process import LogFile, Process

GRANDCHILD = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
with open(sys.argv[1], "w") as told:
    told.write(f"{os.getpid()} {child.pid}")
time.sleep(600)
"""
PARENT = """
import asyncio, os, sys
from pathlib import Path
from modelyard.local.process import LogFile, Process

async def main(log, script, told):
    await Process.start([sys.executable, "-c", script, told], dict(os.environ), LogFile(Path(log)))
    await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


def until_gone(pid, seconds=30):
    """Waits for the end of a process that is not ours, by the kernel's own notice."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    with os.fdopen(descriptor) as watched:
        assert select.select([watched], [], [], seconds)[0], f"process {pid} is still there"


async def test_returns_the_exit_code_and_keeps_the_log(tmp_path):
    log = LogFile(tmp_path / "logs" / "x.log")
    process = await Process.start([sys.executable, "-c", "print('one'); print('two'); raise SystemExit(7)"], {}, log)
    assert await process.wait() == 7
    assert list(log.tail) == ["one", "two"]
    assert log.path.read_text() == "one\ntwo\n"
    log.close()


async def test_a_signal_is_told_as_a_container_tells_it(tmp_path):
    log = LogFile(tmp_path / "x.log")
    process = await Process.start([sys.executable, "-c", "import time; time.sleep(600)"], {}, log)
    process.kill()
    assert await process.wait() == 137
    log.close()


async def test_what_it_has_started_ends_with_it(tmp_path):
    log = LogFile(tmp_path / "x.log")
    told = tmp_path / "told"
    os.mkfifo(told)
    process = await Process.start([sys.executable, "-c", GRANDCHILD, str(told)], {"PATH": "/usr/bin:/bin"}, log)
    grandchild = int((await asyncio.to_thread(told.read_text)).split()[1])
    process.kill()
    await process.wait()
    await asyncio.to_thread(until_gone, grandchild)
    log.close()


def test_nothing_outlives_a_parent_that_is_killed(tmp_path):
    told = tmp_path / "told"
    os.mkfifo(told)
    with subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path / "x.log"), GRANDCHILD, str(told)]) as parent:
        child, grandchild = map(int, told.read_text().split())
        parent.send_signal(signal.SIGKILL)
    until_gone(child)
    until_gone(grandchild)


def test_a_log_keeps_its_newest_part(tmp_path):
    log = LogFile(tmp_path / "x.log", limit=10)
    for line in (b"12345678\n", b"abcdefgh\n", b"ABCDEFGH\n"):
        log.write(line)
    log.close()
    assert log.path.read_bytes() == b"ABCDEFGH\n"
    assert (tmp_path / "x.log.1").read_bytes() == b"abcdefgh\n"


async def test_a_line_without_end_does_not_grow_without_bound(tmp_path):
    log = LogFile(tmp_path / "x.log")
    process = await Process.start([sys.executable, "-c", "print('x' * 300_000); print('end')"], {}, log)
    assert await process.wait() == 0
    assert log.tail[-1] == "end"
    assert log.path.read_text().replace("\n", "") == "x" * 300_000 + "end"
    log.close()


@pytest.mark.parametrize("path", ["/dev/full", "/dev/null/x.log"])
async def test_a_log_that_cannot_be_written_holds_nothing_up(path):
    log = LogFile(Path(path))
    process = await Process.start([sys.executable, "-c", "for n in range(10_000): print('line', n)"], dict(os.environ), log)
    assert await process.wait() == 0
    assert log.tail[-1] == "line 9999"
    log.close()
