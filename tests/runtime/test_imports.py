"""Families of models that are imported at once, as when the first requests of a server ask for models of several."""

import subprocess
import sys

_ALL_AT_ONCE = """
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from modelyard_runtime.serving.families import FAMILIES

together = Barrier(len(FAMILIES))


def load(family):
    together.wait()
    return family.implementation(())


with ThreadPoolExecutor(len(FAMILIES)) as threads:
    list(threads.map(load, FAMILIES))
"""


def test_families_that_are_imported_at_once_are_all_there() -> None:
    """Transformers puts another module in its place at the end of its import, which other threads that import it then do not see."""
    done = subprocess.run([sys.executable, "-c", _ALL_AT_ONCE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
