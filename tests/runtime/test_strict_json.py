"""JSON of clients: what is nested deeper than the server can follow is refused as it is read."""

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
