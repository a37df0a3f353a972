"""No process outlives its parent, however that ends."""

import asyncio
import os
import select
import signal
import subprocess
import sys
import textwrap

from modelyard.local.process import LogFile, Process

GRANDCHILD = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("pids", {}, child.pid, flush=True)
time.sleep(600)
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
    process = await Process.start([sys.executable, "-u", "-c", GRANDCHILD.format("0")], {"PATH": "/usr/bin:/bin"}, log)
    async with asyncio.timeout(30):
        while not log.tail:
            await asyncio.sleep(0.01)
    grandchild = int(log.tail[0].split()[2])
    process.kill()
    await process.wait()
    await asyncio.to_thread(until_gone, grandchild)
    log.close()


def test_nothing_outlives_a_parent_that_is_killed(tmp_path):
    parent = textwrap.dedent(f"""
        import asyncio, os, sys
        from pathlib import Path
        from modelyard.local.process import LogFile, Process

        async def main():
            log = LogFile(Path({str(tmp_path / "x.log")!r}))
            await Process.start([sys.executable, "-u", "-c", {GRANDCHILD.format("os.getpid()").replace("import ", "import os, ", 1)!r}], dict(os.environ), log)
            while not log.tail:
                await asyncio.sleep(0.01)
            print(log.tail[0], flush=True)
            await asyncio.sleep(600)

        asyncio.run(main())
    """)
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as process:
        child, grandchild = map(int, process.stdout.readline().split()[1:])
        process.send_signal(signal.SIGKILL)
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
