"""JSON of clients: what is nested deeper than the server can follow is refused as it is read."""

from time import process_time

import pytest
from modelyard_runtime import strict_json


@pytest.mark.parametrize(("begin", "end"), [("[", "]"), ('{"a":', "}")])
def test_as_many_levels_as_the_bound_and_no_more(begin: str, end: str) -> None:
    def text(levels: int) -> str:
        return begin * levels + "1" + end * levels

    assert strict_json.loads(text(strict_json.MOST_LEVELS))
    for data in (text(strict_json.MOST_LEVELS + 1), text(strict_json.MOST_LEVELS + 1).encode()):
        with pytest.raises(ValueError, match="more than 128 levels"):
            strict_json.loads(data)


def test_many_brackets_side_by_side_are_not_deep() -> None:
    assert strict_json.loads(b"[" + b",".join([b"[[]]"] * 1000) + b"]") == [[[]]] * 1000
    assert strict_json.loads('"' + "[" * 1000 + '"') == "[" * 1000


@pytest.mark.parametrize("item", ["[]", "{}", '{"a":1}'])
def test_as_many_arrays_and_objects_as_the_bound_and_no_more(item: str) -> None:
    def text(count: int) -> str:
        return "[" + ",".join([item] * (count - 1)) + "]"

    assert strict_json.loads(text(strict_json.MOST_CONTAINERS))
    for data in (text(strict_json.MOST_CONTAINERS + 1), text(strict_json.MOST_CONTAINERS + 1).encode()):
        with pytest.raises(ValueError, match="more than 100000 arrays and objects"):
            strict_json.loads(data)


def test_brackets_in_strings_are_no_arrays() -> None:
    code = '[{\\"]' * strict_json.MOST_CONTAINERS
    assert strict_json.loads(f'{{"{code}": ["{code}"]}}')


def test_a_string_that_does_not_end_is_looked_through_once() -> None:
    started = process_time()
    with pytest.raises(ValueError, match=r"more than 100000|unexpected end|EOF"):
        strict_json.loads(b'"' + b'\\"[' * 2_000_000)
    assert process_time() - started < 5
