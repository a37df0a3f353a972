"""Pages: the books by properties, and what attention over pages says against attention over slots."""

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from modelyard_runtime.engine import paged_attention
from modelyard_runtime.engine.blocks import BLOCK, extend_digests
from modelyard_runtime.engine.cache import KVCache
from modelyard_runtime.engine.capacity import fit
from modelyard_runtime.engine.layout import Span, StepLayout, packing_order
from modelyard_runtime.engine.paged import PagedCache
from modelyard_runtime.engine.paged_attention import Part
from modelyard_runtime.engine.pages import PageTable
from modelyard_runtime.engine.scores import AttentionRule
from modelyard_runtime.engine.settings import EngineSettings
from modelyard_runtime.engine.storage import page_of, storage
from torch._subclasses.fake_tensor import FakeTensorMode

SLOTS, BLOCKS = 5, 24
CPU = torch.device("cpu")


def digests(tokens: list[int]) -> list[bytes]:
    out: list[bytes] = []
    extend_digests(out, tokens)
    return out


class Shelf:
    """Pages that remember which text their blocks were written with."""

    def __init__(self, per_page: int):
        self.per_page = per_page
        self.slots: dict[int, list[int]] = {}
        self.texts: dict[tuple[int, int], bytes] = {}
        self.copies = 0

    def assign(self, slot: int, pages: list[int]) -> None:
        self.slots[slot] = list(pages)

    def copy_page(self, source: int, target: int, tokens: int) -> None:
        self.copies += 1
        for block in range(tokens // BLOCK):
            self.texts[target, block] = self.texts[source, block]

    def place(self, slot: int, block: int) -> tuple[int, int]:
        return self.slots[slot][block // self.per_page], block % self.per_page

    def read(self, slot: int, blocks: int) -> list[bytes]:
        return [self.texts[self.place(slot, block)] for block in range(blocks)]


class Play:
    """Takes, grows, shares and gives back as a scheduler would, and checks the books after each move."""

    def __init__(self, seed: int, per_page: int):
        self.chance = random.Random(seed)
        self.shelf = Shelf(per_page)
        self.table = PageTable(SLOTS, BLOCKS, self.shelf, per_page)
        self.texts: dict[int, list[bytes]] = {}
        self.found = 0

    def move(self) -> None:
        self.chance.choice([self.take, self.take, self.take, self.grow, self.give_back, self.give_back])()
        used = {page for slot in self.texts for page in self.shelf.slots[slot]}
        assert self.table.held == len(used) * self.table._per_page
        assert self.table.held + self.table.cached <= self.table.blocks
        assert self.table.taken == len(self.texts)
        for slot, text in self.texts.items():
            assert self.shelf.read(slot, len(text)) == text
        for index, page in enumerate(self.table._pages):
            assert page.users == sum(index in self.shelf.slots[slot] for slot in self.texts)

    def take(self) -> None:
        text = digests([token for _ in range(self.chance.randrange(1, 9)) for token in [self.chance.choice([1, 1, 2])] * BLOCK])
        if not self.table.can_take(len(text)):
            return
        place = self.table.take(text)
        assert place.slot not in self.texts
        assert self.shelf.read(place.slot, place.shared) == text[: place.shared]
        self.found += place.shared
        assert self.table.can_grow(place.slot, len(text))
        self.table.grow(place.slot, len(text))
        self.write(place.slot, text, min(place.shared, len(text) - 1))

    def grow(self) -> None:
        for slot, text in self.texts.items():
            if self.table.can_grow(slot, len(text) + 1):
                self.table.grow(slot, len(text) + 1)
                return self.write(slot, [*text, self.chance.randbytes(16)], len(text))
        return None

    def write(self, slot: int, text: list[bytes], first: int) -> None:
        for block in range(first, len(text)):
            page, within = self.shelf.place(slot, block)
            assert self.table._pages[page].users == 1, "what others read is never written"
            self.shelf.texts[page, within] = text[block]
        self.texts[slot] = text
        self.table.share(slot, text[: self.chance.randrange(len(text) + 1)])

    def give_back(self) -> None:
        if self.texts:
            slot = self.chance.choice(list(self.texts))
            del self.texts[slot]
            self.table.give_back(slot, keep=self.chance.random() < 0.8)


@given(st.integers(0, 10_000), st.sampled_from([1, 2, 3, 4]))
def test_nothing_is_lost_found_wrongly_or_written_under_somebody(seed: int, per_page: int) -> None:
    play = Play(seed, per_page)
    for _ in range(80):
        play.move()
    for slot in list(play.texts):
        play.table.give_back(slot)
    play.table.clear()
    assert (play.table.taken, play.table.held, play.table.cached) == (0, 0, 0)
    assert not play.table._index


def test_a_prefix_takes_memory_once() -> None:
    shelf = Shelf(2)
    table, text = PageTable(3, 20, shelf, 2), digests([7] * 9 * BLOCK)
    first = table.take(text).slot
    table.grow(first, 9)
    shelf.texts |= {shelf.place(first, block): text[block] for block in range(9)}
    table.share(first, text)
    second = table.take([*text[:7], *digests([8] * BLOCK)])
    assert second.shared == 7
    assert shelf.slots[second.slot][:3] == shelf.slots[first][:3]
    assert (table.held, shelf.copies) == (2 * (5 + 1), 1)
    with pytest.raises(ValueError, match="free already"):
        table.give_back(2)


def test_the_end_of_a_text_goes_before_its_beginning() -> None:
    shelf = Shelf(1)
    table, text = PageTable(2, 6, shelf), digests([7] * 5 * BLOCK)
    slot = table.take(text).slot
    table.grow(slot, 5)
    shelf.texts |= {shelf.place(slot, block): text[block] for block in range(5)}
    table.share(slot, text)
    table.give_back(slot)
    other = table.take([]).slot
    table.grow(other, 4)
    assert table.cached == 2
    assert table._known(text) == 2


RULES = [
    AttentionRule(),
    AttentionRule(scale=0.3, window=9),
    AttentionRule(softcap=5.0, window=9),
    AttentionRule(sinks=torch.tensor([0.5, -1.0, 2.0, 0.0])),
]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("page", [16, 48])
def test_attention_over_pages_is_attention_over_slots(rule: AttentionRule, page: int) -> None:
    chance = random.Random(page)
    torch.manual_seed(page)
    slots, pages = KVCache(4, 144), PagedCache(4, 36, page)
    order = chance.sample(range(pages.pages), pages.pages)
    for slot in range(4):
        pages.assign(slot, order[slot::4])
    written = [0] * 4
    for _ in range(12):
        sizes = [chance.choice([0, 1, 1, 1, 7, 20]) for _ in range(4)]
        spans = [Span(i, at, at + size) for i, (at, size) in enumerate(zip(written, sizes, strict=True)) if size and at + size <= 144]
        for span in spans:
            written[span.slot] = span.end
        if not spans:
            continue
        layout = StepLayout.of(sorted(spans, key=packing_order), CPU)
        query, key, value = (torch.randn(1, heads, len(layout.positions), 16) for heads in (4, 2, 2))
        for cache in (slots, pages):
            cache.write(0, key, value, layout)
        torch.testing.assert_close(pages.attend(0, query, layout, rule), slots.attend(0, query, layout, rule), atol=1e-5, rtol=1e-5)


def test_what_is_no_number_is_stored_as_0_and_taken_down() -> None:
    cache = PagedCache(2, 4, 32)
    for slot in range(2):
        cache.assign(slot, [slot])
    layout = StepLayout.of([Span(0, 0, 1), Span(1, 0, 3)], CPU)
    rows = torch.ones(1, 2, 4, 16)
    rows[0, 1, 2] = torch.nan
    cache.write(0, rows, rows, layout)
    assert layout.spoiled() == [False, False, True, False]
    assert bool(cache.attend(0, torch.ones(1, 4, 4, 16), layout, AttentionRule()).isfinite().all())
    assert cache.bytes_per_token == 2 * 2 * 16 * 4


def test_a_step_is_worked_out_once_and_moved_to_each_device() -> None:
    cache = PagedCache(2, 4, 32)
    for slot in range(2):
        cache.assign(slot, [slot])
    layout = StepLayout.of([Span(0, 0, 1), Span(1, 0, 3)], CPU)
    plan, meta = cache._plan(layout, CPU), torch.device("meta")
    assert cache._plan(layout, CPU) is plan
    moved = cache._plan(layout, meta)
    assert cache._plan(layout, meta) is moved
    for part, other in zip(plan.parts, moved.parts, strict=True):
        assert (other.rows, other.lengths, other.reach) == (part.rows, part.lengths, part.reach)
        assert all(tensor.is_meta for tensor in (moved.index, other.used, other.tables, other.starts, other.reaches))


@pytest.mark.parametrize(
    ("asked", "device", "page"),
    [("auto", "cpu", None), ("auto", "cuda", 256), ("slots", "cuda", None), ("paged", "cpu", 16), ("auto", "mps", None)],
)
def test_where_keys_and_values_lie(asked: Any, device: str, page: int | None) -> None:
    assert page_of(EngineSettings(kv_cache=asked), torch.device(device)) == page


def test_capacity_is_a_whole_number_of_pages() -> None:
    settings = EngineSettings(max_model_length=1000, max_concurrent_sequences=8, kv_cache_tokens=1500)
    got = fit(8192, settings, 46_080, 1 << 30, elastic=False, page=256)
    assert (got.sequences, got.slots, got.length, got.blocks * BLOCK) == (8, 8, 1000, 1536)
    cache, table = storage(got)
    assert isinstance(cache, PagedCache)
    assert (cache.pages, table.blocks, table.can_take(got.blocks), table.can_take(got.blocks + 1)) == (6, 96, True, False)


async def test_answers_from_shared_pages_are_those_from_none(kit: Any) -> None:
    beginning = [3 + i % 200 for i in range(70)]
    prompts = [[*beginning, *range(5, 5 + i)] for i in range(6)]
    async with kit.engine("llama", kv_cache="paged", page_tokens=32) as engine:
        warm = [await kit.collect(engine, prompt, max_tokens=6) for prompt in prompts]
        assert engine._core.table.held == 0
    async with kit.engine("llama", prefix_caching=False) as engine:
        cold = [await kit.tokens(engine, prompt, max_tokens=6) for prompt in prompts]
    assert [[event.token_id for event in events] for events in warm] == cold
    assert [events[0].cached_tokens for events in warm] == [0, 64, 64, 64, 64, 64]


def varlen(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, *numbers: Any, **more: Any) -> torch.Tensor:
    """What `torch.nn.attention.varlen.varlen_attn` promises over pages, in plain arithmetic: rows stand at the end of what they see."""
    starts, reaches, longest, reach = numbers
    assert reach == more["block_table"].shape[1] * keys.shape[1]
    assert reaches.tolist() == [reach * n for n in range(len(starts))]
    left, right = more["window_size"]
    assert right == 0
    out = []
    for n, used in enumerate(more["seqused_k"].tolist()):
        rows = query[starts[n] : starts[n + 1]].transpose(0, 1)
        assert rows.shape[1] <= longest
        seen = [pages[more["block_table"][n]].flatten(0, 1)[:used].transpose(0, 1) for pages in (keys, values)]
        at, to = torch.arange(used - rows.shape[1], used)[:, None], torch.arange(used)
        mask = (to <= at) & ((to >= at - left) if left >= 0 else torch.tensor(True))
        given = {"attn_mask": mask, "scale": more["scale"], "enable_gqa": more["enable_gqa"]}
        out.append(torch.nn.functional.scaled_dot_product_attention(rows[None], *(each[None] for each in seen), **given)[0].transpose(0, 1))
    return torch.cat(out)


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule.plain])
def test_the_kernel_is_told_what_it_promises_to_do(rule: AttentionRule, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = PagedCache(3, 48, 256)
    for slot, pages in enumerate([[2], [1], [0]]):
        cache.assign(slot, pages)
    torch.manual_seed(0)
    layouts = [[Span(0, 0, 20), Span(1, 0, 7)], [Span(0, 20, 21), Span(1, 7, 8), Span(2, 0, 30)], [Span(2, 30, 37)]]
    for spans in layouts:
        layout = StepLayout.of(spans, CPU)
        query, key, value = (torch.randn(1, heads, len(layout.positions), 16) for heads in (4, 2, 2))
        cache.write(0, key, value, layout)
        plain = cache.attend(0, query, layout, rule)
        with monkeypatch.context() as patch:
            patch.setattr(paged_attention, "serves", lambda *_: True)
            patch.setattr(paged_attention, "varlen_attn", varlen)
            torch.testing.assert_close(cache.attend(0, query, layout, rule), plain, atol=1e-5, rtol=1e-5)


def test_on_a_gpu_the_kernel_takes_what_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paged_attention, "_capable", lambda device: True)
    part = Part.of(0, lengths=[1, 5], used=[300, 5], tables=[[1, 2], [0, 3]], page=256, device=CPU)
    with FakeTensorMode(), torch.inference_mode():
        query, pages = fake(torch.bfloat16, 8, 6, 64), fake(torch.bfloat16, 4, 256, 2, 64)
        numbers = {name: fake(torch.int32, *getattr(part, name).shape) for name in ("used", "tables", "starts", "reaches")}
        for rule in (AttentionRule(), AttentionRule(window=4)):
            assert paged_attention.serves(query, pages, pages, rule)
            out = paged_attention.paged_attention(query, pages, pages, replace(part, **numbers), rule)
            assert (out.shape, out.dtype, out.device) == ((6, 8, 64), torch.bfloat16, query.device)


def fake(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device=torch.device("cuda", 0))


@pytest.mark.parametrize(
    ("page", "width", "rule"), [(16, 64, RULES[0]), (256, 512, RULES[0]), (256, 60, RULES[0]), (256, 64, RULES[2]), (256, 64, RULES[3])]
)
def test_what_the_kernel_does_not_do_is_left_to_plain_attention(page: int, width: int, rule: AttentionRule, monkeypatch: Any) -> None:
    monkeypatch.setattr(paged_attention, "_capable", lambda device: True)
    with FakeTensorMode():
        assert not paged_attention.serves(fake(torch.bfloat16, 8, 6, width), *(fake(torch.bfloat16, 4, page, 2, width),) * 2, rule)
        assert not paged_attention.serves(fake(torch.float32, 8, 6, 64), *(fake(torch.float32, 4, 256, 2, 64),) * 2, AttentionRule())
