"""What differs, and what only looks as if it did."""

from typing import Any

import pytest
from modelyard.api import quantities
from modelyard.api.names import APPLIED_HASH_ANNOTATION
from modelyard.kube.apply import differs, fingerprint, path_of, resource_path, stamped, within

DESIRED: dict[str, Any] = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "a", "namespace": "ns", "labels": {}, "annotations": {"x": "y"}},
    "spec": {
        "template": {"spec": {"containers": [{"name": "runtime", "env": [{"name": "A", "value": "1"}], "resources": {"cpu": "1000m"}}]}}
    },
}


def live() -> dict[str, Any]:
    container = {
        "name": "runtime",
        "env": [{"name": "INJECTED", "value": "2"}, {"name": "A", "value": "1"}],
        "resources": {"cpu": "1"},
        "imagePullPolicy": "IfNotPresent",
    }
    spec = {"replicas": 1, "template": {"spec": {"containers": [{"name": "sidecar"}, container]}}}
    metadata = {"name": "a", "namespace": "ns", "uid": "u", "annotations": stamped(DESIRED)["metadata"]["annotations"] | {"more": ""}}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec, "status": {"replicas": 1}}


def test_additions_by_others_are_left_alone() -> None:
    assert not differs(DESIRED, live())


def test_what_is_missing_or_changed_differs() -> None:
    assert differs(DESIRED, None)
    changed = live()
    changed["spec"]["template"]["spec"]["containers"][1]["env"][1]["value"] = "3"
    assert differs(DESIRED, changed)
    removed = live()
    del removed["spec"]["template"]["spec"]["containers"][1]
    assert differs(DESIRED, removed)


def test_what_is_no_longer_wanted_differs_by_the_hash() -> None:
    fewer = {**DESIRED, "metadata": {"name": "a", "namespace": "ns"}}
    assert within(fewer, live())
    assert differs(fewer, live())


def test_the_stamp_changes_nothing_else() -> None:
    made = stamped(DESIRED)
    assert made["metadata"]["annotations"] == {"x": "y", APPLIED_HASH_ANNOTATION: fingerprint(DESIRED)}
    assert APPLIED_HASH_ANNOTATION not in DESIRED["metadata"]["annotations"]
    assert fingerprint({"b": 1, "a": 2}) == fingerprint({"a": 2, "b": 1})


@pytest.mark.parametrize(
    ("desired", "found", "same"),
    [
        ({}, None, True),
        ([], None, True),
        (None, 3, True),
        ({"a": {}}, {}, True),
        ([1, 2], [1, 2, 3], False),
        ([{"port": 80}], [{"port": 80, "protocol": "TCP"}], True),
        ([{"name": "a"}], [{"name": "b"}], False),
        (True, 1, False),
        ("1", 1, True),
        ("1Gi", "1024Mi", True),
        ("1G", "1Gi", False),
        ("a", None, False),
        ({"a": 1}, [1], False),
    ],
)
def test_within(desired: Any, found: Any, same: bool) -> None:
    assert within(desired, found) is same


def test_paths() -> None:
    assert path_of(DESIRED) == "/apis/apps/v1/namespaces/ns/deployments/a"
    assert resource_path("v1", "Node", None) == "/api/v1/nodes"
    with pytest.raises(KeyError):
        resource_path("v1", "Unknown", None)


@pytest.mark.parametrize(
    ("text", "value"), [("500m", "0.5"), (2, "2"), ("16Gi", "17179869184"), ("1e3", "1000"), (".5", "0.5"), ("1E", "1e18")]
)
def test_quantities(text: object, value: str) -> None:
    assert quantities.parse(text) == quantities.Decimal(value)


@pytest.mark.parametrize("text", ["", "GB", "16GB", "1 Gi", "1e", True, None, "0x1", "1m5"])
def test_no_quantities(text: object) -> None:
    with pytest.raises(ValueError, match="is not a quantity"):
        quantities.parse(text)
