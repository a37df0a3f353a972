import asyncio
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from modelyard.api.errors import InvalidRequest
from modelyard.gateway.model_name import PARSED_BYTES, Walk, Wanted, read_wanted

NASTY = st.text(alphabet='\\"{}[]:, model\n\u00e4\u2028', max_size=30)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | NASTY,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NASTY | st.sampled_from(["model", "stream"]), inner, max_size=4),
    max_leaves=20,
)


@settings(deadline=None, max_examples=200)
@given(st.dictionaries(NASTY | st.sampled_from(["model", "stream"]), VALUES, max_size=6), st.booleans(), st.integers(2, 40))
def test_a_walk_finds_what_a_parse_finds(document, ascii_only, step):
    body = json.dumps(document, ensure_ascii=ascii_only, indent=step % 3 or None).encode()
    walk = Walk()
    while walk.position < len(body):
        walk.on(body, min(walk.position + step, len(body)))
    for key in ("model", "stream"):
        value = document.get(key)
        if isinstance(value, str | bool):
            assert walk.found.get(key) == value
        else:
            assert not isinstance(walk.found.get(key), str)
            assert walk.found.get(key) is not True


async def test_big_and_small_bodies_agree():
    for padding in (10, PARSED_BYTES):
        for document in ({"messages": "x" * padding, "stream": True, "model": "a"}, {"model": "a", "stream": True, "ids": [1] * padding}):
            assert await read_wanted(json.dumps(document).encode()) == Wanted("a", True)


@pytest.mark.parametrize("filling", ['"a\\"\\\\"', "{}", "1", '{"model":"x"}', '"' + "\\\\" * 5000 + '"', '"' + "x" * 400_000 + '"'])
async def test_a_big_body_gives_way_to_others(filling):
    """No matter what it is made of, 2 MB never hold the loop for long: others get many turns meanwhile."""
    body = ('{"x": [' + ",".join([filling] * (2_000_000 // (len(filling) + 1))) + '], "model": "a"}').encode()
    turns = 0

    async def others():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.ensure_future(others())
    assert (await read_wanted(body)).model == "a"
    other.cancel()
    assert turns >= len(body) // (2 * PARSED_BYTES)


@pytest.mark.parametrize("model", ["1", "null", "{}", "[]", "tru", '"', '""', '"' + "x" * 100_000 + '"'])
async def test_a_big_body_with_another_kind_of_model_is_refused(model):
    body = b'{"x": "' + b"y" * PARSED_BYTES + b'", "model": ' + model.encode() + b"}"
    with pytest.raises(InvalidRequest) as caught:
        await read_wanted(body)
    assert caught.value.param == "model"
