from modelyard.api.times import rfc3339, seconds_of


def test_times_are_those_of_kubernetes():
    assert rfc3339(1_763_712_000.9) == "2025-11-21T08:00:00Z"
    assert seconds_of("2025-11-21T08:00:00Z") == seconds_of("2025-11-21T09:00:00+01:00") == 1_763_712_000
    assert seconds_of("2025-11-21T08:00:00.250000Z") == 1_763_712_000.25
    assert seconds_of(None) is None
