"""Packed layers multiply as plain ones do, for every number of rows."""

import weakref
from typing import Any

import pytest
import torch
from modelyard_runtime.models.packing import MklLinear, OneDnnLinear, PackedLinear, narrowed, pack, packing
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

KINDS = [kind for kind, there in ((MklLinear, torch._C.has_mkl), (OneDnnLinear, torch._C._has_mkldnn)) if there]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(48, 96), (96, 31), (576, 960)])
def test_packed_layers_multiply_as_plain_ones(kind: type[PackedLinear], size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(*size), nn.Linear(size[1], 31, bias=False)).eval()
    rows = [torch.randn(1, count, size[0]) for count in (1, 2, 3, 4, 7, 8, 15, 16, 17, 33, 64, 129, 257, 300)]
    with torch.no_grad():
        wanted = [plain(row) for row in rows]
        assert pack(plain, kind) == 2
        assert all(isinstance(layer, PackedLinear) for layer in plain)
        for row, product in zip(rows, wanted, strict=True):
            torch.testing.assert_close(plain(row), product, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_are_not_contiguous_are_taken_as_they_look(kind: type[PackedLinear]) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(12, 20)
    rows = torch.randn(1, 12, 5).transpose(1, 2)
    with torch.no_grad():
        torch.testing.assert_close(kind(linear)(rows), linear(rows), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bias", [True, False])
def test_weights_that_came_in_16_bits_are_kept_in_16_bits_too(kind: type[PackedLinear], bias: bool) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(96, 31, bias=bias)).requires_grad_(False)
    plain[0].weight.copy_(plain[0].weight.bfloat16())
    shapes = [(1, count, 96) for count in (1, 2, 7, 12, 13, 40)] + [(96,), (1, 0, 96)]
    rows = [torch.randn(shape) for shape in shapes] + [torch.randn(1, 96, 5).transpose(1, 2)]
    wanted = [plain(row) for row in rows]
    pack(plain, kind)
    assert plain[0].narrow is not None
    for row, product in zip(rows, wanted, strict=True):
        torch.testing.assert_close(plain(row), product, atol=1e-5, rtol=1e-5)


def test_weights_of_more_than_16_bits_are_not_narrowed() -> None:
    linear = nn.Linear(96, 31)
    assert narrowed(linear) is None
    linear.weight.data = linear.weight.data.bfloat16().float()
    assert narrowed(linear) is not None
    linear.weight.data[0, 0] = 1e6
    assert narrowed(linear) is None
    assert narrowed(linear.bfloat16()) is None


@pytest.mark.parametrize(("memory", "copied"), [(10 * 2 * 96, True), (10 * 2 * 96 - 1, False)])
def test_copies_of_all_layers_take_a_fifth_of_the_memory_or_there_are_none(
    monkeypatch: pytest.MonkeyPatch, memory: int, copied: bool
) -> None:
    layers = nn.Sequential(nn.Linear(8, 12), nn.Linear(12, 8)).requires_grad_(False)
    for layer in layers:
        layer.weight.copy_(layer.weight.bfloat16())
    monkeypatch.setattr(f"{pack.__module__}.available_memory", lambda: memory)
    pack(layers, KINDS[0])
    assert [layer.narrow is not None for layer in layers] == [copied, copied]


class Wrong(PackedLinear):
    """A library that multiplies layers of 8 inputs badly."""

    def packed(self, weight: torch.Tensor) -> torch.Tensor:
        return weight

    def product(self, rows: torch.Tensor, count: int) -> torch.Tensor:
        product = nn.functional.linear(rows, self.weight, self.bias)
        return product * 1.1 if self.in_features == 8 else product


def test_a_layer_whose_packed_product_is_off_stays_plain() -> None:
    layers = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 4))
    assert pack(layers, Wrong) == 1
    assert [type(layer) for layer in layers] == [Wrong, nn.Linear, nn.Linear]


def test_plain_weights_are_let_go_while_others_are_packed() -> None:
    layers = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4)) for _ in range(6)))
    plain = [weakref.ref(weight) for weight in layers.parameters() if weight.dim() == 2]
    held = []

    class Counting(Wrong):
        def __init__(self, linear: nn.Linear):
            held.append(sum(weight() is not None for weight in plain))
            super().__init__(linear)

    assert pack(layers, Counting) == 6
    assert all(count <= 6 - packed + 1 for packed, count in enumerate(held)), held


def test_float32_on_a_processor_is_packed_and_a_gpu_does_its_own() -> None:
    assert packing(torch.float32, torch.device("cpu")) in KINDS
    assert packing(torch.float32, torch.device("cuda")) is None
    assert packing(torch.float16, torch.device("cpu")) is None


class KernelRows(TorchDispatchMode):
    """Notes the rows of each product that oneDNN computes: it compiles and keeps a kernel for each number."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "_linear_pointwise" in str(func):
            self.seen.add(args[0].shape[0])
        return func(*args, **(kwargs or {}))


def test_prompts_of_all_lengths_share_a_few_kernels() -> None:
    layers = nn.Sequential(nn.Linear(16, 8))
    pack(layers, OneDnnLinear)
    with torch.no_grad(), KernelRows() as rows:
        shapes = [tuple(layers(torch.ones(1, count, 16)).shape) for count in range(1, 257)]
    assert shapes == [(1, count, 8) for count in range(1, 257)]
    assert rows.seen == {*range(1, 17), *range(32, 257, 16)}
