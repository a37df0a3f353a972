"""Files and connections that a server may have open, and what it does when they are all taken."""

import subprocess
import sys

_TAKES_ALL = """
import resource
from modelyard.process import open_files

_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, most))
open_files.take_all()
assert resource.getrlimit(resource.RLIMIT_NOFILE) == (most, most)
"""
_WITHOUT_FILES = """
import os
import resource
from modelyard_runtime.serving.memory import size_of

first = size_of("80%")
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
try:
    while True:
        os.dup(0)
except OSError:
    pass
assert size_of("80%") >= first > 0
"""


def ran(script: str) -> str:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL).stderr


def test_a_server_may_have_as_many_open_as_the_system_lets_it() -> None:
    assert ran(_TAKES_ALL) == ""


def test_house_is_kept_without_a_file_to_open() -> None:
    """Clients that take all files must not end the process: the budget, in shares of the memory, is looked at once a second."""
    assert ran(_WITHOUT_FILES) == ""
