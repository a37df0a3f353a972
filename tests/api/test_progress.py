import json

import pytest
from modelyard.api.progress import Progress

WHOLE = {
    "phase": "load",
    "fraction": 0.5,
    "bytesDone": 10,
    "bytesTotal": 20,
    "seconds": {"resolve": 1, "download": 2.5},
    "capabilities": ["chat", "completions"],
    "models": {"m": {"engine": {"name": "generate", "kernels": {"Linear": 9}, "tried": [{"name": "batching", "why": "so"}], "more": 1}}},
}


def test_all_of_it_is_read():
    read = Progress.parse(json.dumps(WHOLE).encode())
    assert (read.phase, read.fraction, read.bytes_done, read.bytes_total) == ("load", 0.5, 10, 20)
    assert (read.seconds, read.capabilities) == ((("resolve", 1.0), ("download", 2.5)), ("chat", "completions"))
    assert (read.engine.name, read.engine.kernels, read.engine.tried[0].why) == ("generate", {"Linear": 9}, "so")


def test_what_is_missing_is_not_known():
    assert Progress.parse(b"{}") == Progress.parse(b'{"seconds": null, "capabilities": null, "fraction": null}') == Progress()


def test_a_report_is_bounded():
    long = {"seconds": {str(number): number for number in range(99)}, "capabilities": ["chat"] * 99}
    read = Progress.parse(json.dumps(long).encode())
    assert (len(read.seconds), len(read.capabilities)) == (16, 16)


@pytest.mark.parametrize("models", [None, {}, {"m": {}}, {"m": {"engine": {"name": 1}}}, [1]])
def test_an_engine_that_is_not_named_is_none(models):
    assert Progress.parse(json.dumps({"phase": "ready", "models": models}).encode()) == Progress(phase="ready")


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"7", b'{"seconds": [1]}', b'{"seconds": {"load": "x"}}', b'{"fraction": [1]}'])
def test_what_is_no_report_is_refused(body):
    with pytest.raises(ValueError, match=r"."):
        Progress.parse(body)
