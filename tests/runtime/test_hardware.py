"""What the machine says, and what is made of it."""

import errno
import os

import pytest
import torch
from modelyard_runtime import hardware

_ON_A_PROCESSOR = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 4000000000 bytes. "
    "Error code 12 (Cannot allocate memory)"
)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError(), True),
        (RuntimeError(_ON_A_PROCESSOR), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:80] . DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA failed with error out of memory"), True),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"), False),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), False),
        (OSError("libgomp.so.1: cannot allocate memory in static TLS block"), False),
        (ImportError("libgomp.so.1: cannot allocate memory in static TLS block"), False),
        (KeyError("out of memory"), False),
        (IndexError("index out of range"), False),
    ],
)
def test_what_counts_as_memory_that_ran_out(error: Exception, expected: bool):
    assert hardware.is_out_of_memory(error) is expected


@pytest.mark.parametrize(
    ("asked", "device", "matrix_units", "expected"),
    [
        ("auto", "cpu", False, "float32"),
        ("auto", "cpu", True, "bfloat16"),
        ("auto", "cuda", False, "bfloat16"),
        ("float16", "cpu", False, "float16"),
    ],
)
def test_weights_get_the_data_type_that_their_device_computes_well(monkeypatch, asked, device, matrix_units, expected):
    monkeypatch.setattr(hardware, "has_matrix_units", lambda: matrix_units)
    assert hardware.dtype_for(asked, device) == expected
