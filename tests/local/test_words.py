"""Causes as a machine without a cluster tells them: no pods, no nodes, no kubectl."""

import re

import pytest
from modelyard.api.reasons import Reason, Termination
from modelyard.controller import causes
from modelyard.local.words import here

END = {"name": "runtime", "restartCount": 3, "state": {"waiting": {}}}


def cause(**end) -> Termination:
    """The cause of a container's end, as the operator finds it."""
    status = {"containerStatuses": [END | {"lastState": {"terminated": end}}]}
    problem = causes.view({"metadata": {"name": "m-1-a"}, "spec": {}, "status": status}).problem
    assert problem is not None
    return here(problem, "m-1-a", "m")


@pytest.mark.parametrize("code", [80, 81, 82, 83, 84, 85, 86, 1, 2])
def test_no_words_of_clusters(code):
    told = cause(exitCode=code, message="the last line")
    assert told.message == f"replica m-1-a: ended with exit code {code}; last log line: the last line"
    assert not re.search(r"\b(pods?|nodes?|kubectl|container)\b", told.remedy), told.remedy
    assert "{" not in told.remedy


def test_a_process_that_the_kernel_ended():
    told = cause(exitCode=137, reason="OOMKilled")
    assert told.message == "replica m-1-a: killed because the memory ran out"
    assert told.remedy.startswith("Free memory")


def test_what_the_runtime_says_itself_stays():
    own = Termination(Reason.WEIGHTS_NOT_FOUND, "there is no model at hf://a/b", "correct the source")
    told = cause(exitCode=80, message=own.to_json())
    assert (told.message, told.remedy) == ("replica m-1-a: there is no model at hf://a/b", "correct the source")


def test_devices_that_are_not_there():
    pod = {"metadata": {"name": "m-1-a"}, "spec": {"containers": [{"resources": {"limits": {"nvidia.com/gpu": "2"}}}]}}
    unplaced = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    pod["status"] = {"conditions": [unplaced | {"message": "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."}]}
    problem = causes.view(pod).problem
    assert problem is not None
    told = here(problem, "m-1-a", "m")
    assert told.message == "replica m-1-a: this machine has too few free devices: nvidia.com/gpu"
    assert "CUDA_VISIBLE_DEVICES" in told.remedy
