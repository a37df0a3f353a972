"""What this process may use of the machine: control groups of a container bound it below what the kernel reports."""

import ctypes
import errno
import math
import os
from functools import cache
from pathlib import Path

import psutil
from modelyard.process import cgroup

#: What errors say that memory ran out by words alone: PyTorch's allocator on a processor, CUDA, and CTranslate2.
_OUT_OF_MEMORY = ("allocate memory", "not enough memory", "out of memory")
#: Rounds that PyTorch's threads spin on shared cores before they sleep.
SPINS = "10000"


def available_memory() -> int:
    """Returns the bytes that this process can still take: the machine's, or the control group's where that is less."""
    free, bound = int(psutil.virtual_memory().available), cgroup.memory()
    return free if bound is None else min(free, bound.free)


def memory_limit() -> int:
    """Returns the bytes that this process may use in all: the machine's, or the control group's where that is less."""
    bound = cgroup.memory()
    return _memory() if bound is None else min(_memory(), bound.limit)


@cache
def _memory() -> int:
    """Returns the machine's memory in bytes: asked once, for a process that has no file left to open cannot ask."""
    return int(psutil.virtual_memory().total)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: Python's, the system's, PyTorch's for devices, or one that has but words for it."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM  # "cannot allocate memory" is said of thread-local storage too, without the number
    said = isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)
    return said or isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def return_freed() -> None:
    """Gives freed memory back to the system; the C library keeps it for itself otherwise, pages that weights of megabytes have left."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's alone
    if trim is not None:
        trim(0)


def usable_cores() -> int:
    """Returns the physical cores that this process may use, at least 1.

    By affinity, by the control group's processor time, and by OMP_NUM_THREADS where the user set it.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    logical, physical = psutil.cpu_count(logical=True) or allowed, psutil.cpu_count(logical=False) or allowed
    cores = max(1, allowed * physical // logical)
    quota = cgroup.cores()
    if quota is not None:
        cores = min(cores, max(1, math.ceil(quota)))
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, max(1, int(asked))) if asked.isdigit() else cores


def helpers(device: str) -> int:
    """Returns how many threads may do one kind of work beside a model: read prompts, decode media.

    On a processor the model computes on the same cores, so that they are few; where it computes on another ``device`` the cores are free.
    There are two at least, so that one that takes long holds up nobody.
    """
    cores = usable_cores()
    return min(8, max(2, cores // 4)) if device == "cpu" else min(16, max(2, cores // 2))


def threads_of_the_loop() -> int:
    """Returns how many threads an event loop has for short waits of all kinds: files, measurements, the ends of other threads."""
    return min(32, usable_cores() + 4)


def processor_flags() -> frozenset[str]:
    """Returns the processor's feature flags as Linux names them; empty where there is no /proc/cpuinfo."""
    return frozenset(_processor("flags", "Features").split())


def is_intel() -> bool:
    """Whether the processor is Intel's."""
    return _processor("vendor_id") == "GenuineIntel"


def set_waiting(cores: str) -> None:
    """Chooses how PyTorch's threads wait for each other: on ``own`` cores awake, on ``shared`` ones asleep soon; ``auto`` finds out.

    Call it before PyTorch is imported; what the user set stays. By default they spin for milliseconds, which is harmless on cores of one's
    own and ruinous on shared ones: a thread that waits for another keeps that other from running. Measured with SmolLM2 decoding one row:
    on quiet cores 46 ms a step by default, 48 to 51 with 10,000 spins, 59 with 2,000; beside other work on both cores 1,095 to 3,253, 176
    to 283, and 81 to 260 ms.
    """
    own = has_own_cores() if cores == "auto" else cores == "own"
    if not own and "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


def has_own_cores() -> bool:
    """Whether this process seems to have cores for itself: it is bound to some of the machine's, as by Kubernetes' static policy."""
    if not hasattr(os, "sched_getaffinity"):
        return False
    bound = len(os.sched_getaffinity(0)) < (os.cpu_count() or 1)
    return bound and cgroup.cores() is None


def has_matrix_units() -> bool:
    """Whether the processor has matrix units for bfloat16 (Intel's AMX)."""
    return "amx_bf16" in processor_flags()


def dtype_for(asked: str, device: str) -> str:
    """Returns the name of the data type that weights get on a kind of device; of ``auto``, the one that it computes well.

    On a processor that is float32 unless it has matrix units: measured with avx512_bf16 alone, bfloat16 decodes 8 rows in 0.87 of
    float32's time and reads prompts in 1.57 of it, and its answers are less exact.
    """
    if asked != "auto":
        return asked
    return "float32" if device == "cpu" and not has_matrix_units() else "bfloat16"


def multiplies_bytes() -> bool:
    """Whether the processor has instructions for sums of products of bytes (VNNI, AMX); without them such sums can overflow."""
    return not processor_flags().isdisjoint({"avx512_vnni", "avx_vnni", "amx_int8"})


@cache
def _processor(*names: str) -> str:
    """Returns the first field of /proc/cpuinfo that has one of the names; empty where there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    found = next((line for line in lines if line.startswith(names)), "")
    return found.partition(":")[2].strip()
