"""Starts a pod's process so that it cannot outlive `modelyard up`: ``python launch.py PARENT_PID PIPE -- COMMAND ARGUMENT…``.

Two nets, because the parent may be killed without a chance to clean up. On Linux the kernel kills the process when its parent
ends. And everywhere a watcher in the same process group waits on a pipe whose other end only the parent holds: when that closes,
it kills the group, which also takes what the process itself has started.

Run by path with ``-I -S`` and made of the standard library alone, so that it costs no more than the interpreter's start.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Sets up both nets and becomes the command."""
    parent, pipe, command = int(arguments[0]), int(arguments[1]), arguments[3:]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended before the net was up
        sys.exit(1)
    os.set_inheritable(pipe, False)
    if os.fork() == 0:
        _watch(pipe)
    os.execvp(command[0], command)  # noqa: S606  (the planned command)


def _watch(pipe: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    silence = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(silence, descriptor)
    os.read(pipe, 1)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1:])
