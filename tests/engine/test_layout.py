"""Packing, masks and slots, by properties."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from modelyard_runtime.engine.cache import Elastic, KVCache
from modelyard_runtime.engine.layout import MAX_PADDING, Span, StepLayout, group_decodes, packing_order
from modelyard_runtime.engine.scores import AttentionRule

CPU = torch.device("cpu")
spans = st.dictionaries(st.integers(0, 12), st.tuples(st.integers(0, 60), st.integers(1, 9)), min_size=1, max_size=9).map(
    lambda slots: sorted((Span(slot, start, start + size) for slot, (start, size) in slots.items()), key=packing_order)
)


@given(st.dictionaries(st.integers(0, 20), st.integers(0, 2000), min_size=1, max_size=12))
def test_groups_are_adjacent_cover_all_rows_and_waste_little(starts: dict[int, int]) -> None:
    singles = [Span(slot, start, start + 1) for slot, start in sorted(starts.items())]
    groups = group_decodes(singles)
    covered = [(group.slot + i, position) for group in groups for i, position in enumerate(group.positions)]
    assert covered == [(span.slot, span.start) for span in singles]
    assert [group.row for group in groups] == [sum(g.count for g in groups[:i]) for i in range(len(groups))]
    assert all(max(g.positions) * g.count - sum(g.positions) <= MAX_PADDING for g in groups)


@given(spans, st.sampled_from([None, 1, 4, 16]), st.booleans(), st.integers(0, 2**16))
def test_attention_over_the_cache_equals_attention_over_each_sequence_alone(
    work: list[Span], window: int | None, fancy: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    heads, kv_heads, size = 4, 2, 8
    rule = AttentionRule(0.3, window, 2.0 if fancy else None, torch.randn(heads, generator=generator) if fancy else None)
    cache = KVCache(slots=13, length=80)
    histories = {}
    for span in work:
        history = torch.randn(2, 1, kv_heads, span.end, size, generator=generator)
        histories[span.slot] = history
        if span.start:
            cache.write(
                0, history[0, :, :, : span.start], history[1, :, :, : span.start], StepLayout.of([Span(span.slot, 0, span.start)], CPU)
            )
    new = torch.cat([histories[span.slot][:, :, :, span.start : span.end] for span in work], dim=3)
    query = torch.randn(1, heads, new.shape[3], size, generator=generator)
    layout = StepLayout.of(work, CPU)
    cache.write(0, new[0], new[1], layout)
    got = cache.attend(0, query, layout, rule)
    row = 0
    for span in work:
        keys, values = histories[span.slot]
        for position in range(span.start, span.end):
            torch.testing.assert_close(got[0, row], plainly(query[0, :, row], keys[0], values[0], position, rule), atol=2e-5, rtol=1e-4)
            row += 1


def plainly(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, position: int, rule: AttentionRule) -> torch.Tensor:
    """One row's attention, written down as the definition says; query [heads, size], keys and values [kv_heads, length, size]."""
    first = 0 if rule.window is None else max(0, position - rule.window + 1)
    out = []
    for head, vector in enumerate(query):
        shared = head // (query.shape[0] // keys.shape[0])
        scores = keys[shared, first : position + 1] @ vector * rule.scale
        if rule.softcap is not None:
            scores = torch.tanh(scores / rule.softcap) * rule.softcap
        weights = scores.exp()
        total = weights.sum() + (0 if rule.sinks is None else rule.sinks[head].exp())
        out.append(weights @ values[shared, first : position + 1] / total)
    return torch.stack(out)


def test_memory_on_demand_is_zero_and_writable() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        tensor = Elastic((2, 3, 1000), dtype).tensor
        assert tensor.dtype == dtype
        assert not tensor.any()
        tensor[1, 2, 999] = 1
        assert tensor.sum() == 1


def test_what_is_not_a_number_is_told_by_token_and_never_read() -> None:
    cache = KVCache(slots=2, length=16)
    layout = StepLayout.of([Span(0, 0, 1), Span(1, 0, 3)], CPU)
    key, value = torch.ones(1, 2, 4, 8), torch.ones(1, 2, 4, 8)
    key[0, 1, 0, 3], value[0, 0, 2, 7] = torch.nan, torch.inf
    cache.write(0, key, value, layout)
    cache.write(1, torch.ones(1, 2, 4, 8), torch.ones(1, 2, 4, 8), layout)
    assert layout.spoiled() == [True, False, True, False]
    assert cache.attend(0, torch.ones(1, 4, 4, 8), layout, AttentionRule()).isfinite().all()
