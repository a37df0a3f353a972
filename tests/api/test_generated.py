"""What is generated from the types is what is checked in, and is complete."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modelyard.api import crd
from modelyard.api.inference_model import InferenceModelSpec
from modelyard.api.reference import fields, reference
from modelyard.api.schema import structural

ROOT = Path(__file__).parents[2]
HINT = "run `make crds`"


def test_crds_are_current() -> None:
    stored = {path.name: path.read_text() for path in (ROOT / "crds").glob("*.yaml")}
    assert stored == crd.files(), HINT


def test_the_reference_is_current() -> None:
    assert (ROOT / "docs/reference/inference-model.md").read_text() == reference(), HINT


def test_writing_is_repeatable(tmp_path: Path) -> None:
    crd.main([str(tmp_path / "crds"), str(tmp_path / "docs")])
    assert {path.name for path in tmp_path.rglob("*.*")} == {*crd.files(), "inference-model.md"}


def levels(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        yield schema
        for key in ("items", "additionalProperties"):
            yield from levels(schema.get(key))
        for inner in schema.get("properties", {}).values():
            yield from levels(inner)


def test_the_schema_is_structural_and_bounded() -> None:
    for level in levels(structural(InferenceModelSpec)):
        assert "type" in level or level.get("x-kubernetes-int-or-string"), level
        assert not {"$ref", "title", "oneOf"} & level.keys()
        if level.get("type") == "array":
            assert "maxItems" in level, level
        if level.get("type") == "string":
            assert "maxLength" in level or "enum" in level, level
        if "additionalProperties" in level:
            assert "maxProperties" in level, level


def test_every_field_has_words() -> None:
    assert [field.path for field in fields(structural(InferenceModelSpec)) if not field.schema.get("description")] == []
