import pytest
from modelyard.api.wording import path_of


@pytest.mark.parametrize(
    ("location", "path"),
    [((), ""), (("spec", "scaling"), "spec.scaling"), (("messages", 0, "content", 1), "messages[0].content[1]"), ((2, "a"), "[2].a")],
)
def test_paths_are_those_of_the_api_server(location, path):
    assert path_of(location) == path
