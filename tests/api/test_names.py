import pytest
from modelyard.api.names import authority


@pytest.mark.parametrize(
    ("host", "shown"), [("10.0.0.1", "10.0.0.1:8000"), ("gateway.example", "gateway.example:8000"), ("fd00::1", "[fd00::1]:8000")]
)
def test_an_authority_is_told_apart_from_its_port(host, shown):
    assert authority(host, 8000) == shown
