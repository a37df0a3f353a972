"""Manifests are refused, and completed, without a cluster as the API server does it; e2e/test_api_server.py holds it to that."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from modelyard.api.documents import MAX_BYTES
from modelyard.api.inference_model import InferenceModel
from modelyard.api.validation import InvalidManifest, load_manifests, validate

DATA = Path(__file__).parents[1] / "data"
BAD = yaml.safe_load((DATA / "bad_manifests.yaml").read_text())
GOOD = yaml.safe_load((DATA / "good_manifests.yaml").read_text())


def merged(base: Any, over: Any) -> Any:
    if isinstance(base, dict) and isinstance(over, dict):
        return base | {key: merged(base.get(key), value) for key, value in over.items()}
    return over


def manifest(row: dict[str, Any]) -> dict[str, Any]:
    base = {
        "apiVersion": "modelyard.dev/v1alpha1",
        "kind": "InferenceModel",
        "metadata": {"name": "row"},
        "spec": {"model": {"source": "builtin://tiny-chat"}},
    }
    return row.get("manifest") or merged(base, {key: row[key] for key in ("metadata", "spec") if key in row})


def name_of(row: dict[str, Any]) -> str:
    return json.dumps(row.get("spec") or row.get("metadata") or row.get("manifest"))[:60]


@pytest.mark.parametrize("row", BAD, ids=name_of)
def test_a_bad_manifest_is_refused_with_the_words_of_the_table(row: dict[str, Any]) -> None:
    with pytest.raises(InvalidManifest) as refused:
        load_manifests(yaml.safe_dump(manifest(row)), "bad.yaml")
    message = str(refused.value)
    assert message.startswith("bad.yaml: ")
    assert "\n" not in message
    for words in row["words"]:
        assert words in message


def test_the_table_is_long_enough() -> None:
    assert len(BAD) >= 45


@pytest.mark.parametrize("spec", GOOD, ids=json.dumps)
def test_a_good_manifest_is_accepted(spec: dict[str, Any]) -> None:
    (model,) = load_manifests(yaml.safe_dump(manifest({"spec": spec})), "good.yaml")
    assert isinstance(model, InferenceModel)
    assert model.metadata.namespace == "default"


def test_defaults_are_those_of_the_types() -> None:
    complete = validate(manifest({}), "x")
    spec = InferenceModel.model_validate(complete).spec
    assert complete["spec"]["limits"] == {"maxQueue": 256, "queueTimeout": "1m", "requestTimeout": "10m"}
    assert complete["spec"]["scaling"]["coldStart"] == {"maxWait": "10m", "maxQueue": 100, "keepalive": "15s"}
    assert spec == InferenceModel.model_validate(manifest({})).spec


def test_several_documents_and_empty_ones() -> None:
    one, other = (yaml.safe_dump(manifest({"metadata": {"name": name}})) for name in ("one", "other"))
    assert [model.metadata.name for model in load_manifests(f"---\n{one}---\n---\n# nothing\n---\n{other}", "two.yaml")] == ["one", "other"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no manifest: write an InferenceModel of modelyard.dev/v1alpha1"),
        ("a: [", "error parsing: "),
        ("a: [1\nb: 2\n", "error parsing: line 2, column 2: expected ',' or ']', but got ':', while parsing a flow sequence"),
        ("a: 1\na: 2", "line 2: key 'a' already set in map"),
        ("[1, 2]", "a manifest must be an object with apiVersion, kind, metadata and spec, not list"),
        ("{}", "error validating data: [apiVersion not set, kind not set]"),
        ("{apiVersion: v1, kind: Pod}", 'no matches for kind "Pod" in version "v1"'),
        ("{apiVersion: modelyard.dev/v2, kind: InferenceModel}", 'no matches for kind "InferenceModel" in version "modelyard.dev/v2"'),
        ("{apiVersion: modelyard.dev/v1alpha1, kind: InferenceModel, metadata: {name: a}}", "spec: Required value"),
        ("{apiVersion: modelyard.dev/v1alpha1, kind: InferenceModel, metadata: 3}", "metadata must be an object with a name"),
        ("{apiVersion: modelyard.dev/v1alpha1, kind: InferenceModel, metadata: {nam: a}, spec: {}}", 'unknown field "metadata.nam"'),
        ("{apiVersion: modelyard.dev/v1alpha1, kind: InferenceModel, metadata: {name: a}, spc: {}}", 'unknown field "spc"'),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("a: &a [*a]", "more than 20000 values, aliases written out"),
        (
            "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(f"{x}: &{x} [{', '.join([f'*{chr(ord(x) - 1)}'] * 9)}]\n" for x in "bcdefgh"),
            "more than 20000",
        ),
        ("[" * 20_000, "nested too deep"),
        ("#" * (MAX_BYTES + 1), f"longer than {MAX_BYTES} bytes"),
        ("a: \x00", "error parsing: "),
        (
            "{apiVersion: modelyard.dev/v1alpha1, kind: InferenceModel, metadata: {name: a}, spec: {resource: {}}}",
            'Did you mean "spec.resources"?',
        ),
        (
            "{apiVersion: modelyard.dev/v1alpha1, kind: InferenceModel, metadata: {name: a}, spec: {engine: {env: [{nam: a}]}, scale: 1}}",
            'unknown field "spec.scale". Did you mean "spec.engine.env[0].name"',
        ),
        ("? [a]\n: b", "a key must be text"),
        ("1: 2\ntrue: 3", "apiVersion not set"),
    ],
    ids=range(22),
)
def test_unreadable_text_is_refused_with_the_cause(text: str, words: str) -> None:
    with pytest.raises(InvalidManifest, match=r"^m\.yaml: ") as refused:
        load_manifests(text, "m.yaml")
    assert words in str(refused.value)


def test_status_is_left_to_the_operator() -> None:
    (model,) = load_manifests(yaml.safe_dump(manifest({}) | {"status": {"replicas": 3}}), "s.yaml")
    assert model.status.replicas == 0


@pytest.mark.parametrize(
    ("scalar", "words"),
    [("2026-01-01", 'Invalid value: "2026-01-01"'), ("1:30", 'Invalid value: "1:30"'), ("yes", 'type string: "boolean"')],
)
def test_scalars_read_as_in_kubectl(scalar: str, words: str) -> None:
    text = yaml.safe_dump(manifest({})).replace("builtin://tiny-chat", scalar)
    with pytest.raises(InvalidManifest) as refused:
        load_manifests(text, "s.yaml")
    assert words in str(refused.value)
