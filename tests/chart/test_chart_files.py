"""What of the chart can be checked without helm; the rest is in e2e/."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "modelyard"
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA = yaml.safe_load((CHART / "values.schema.json").read_text())
TEMPLATES = {path.name: path.read_text() for path in sorted((CHART / "templates").iterdir())}


def _paths(values: dict[str, Any], schema: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, dict[str, Any] | None]]:
    """Yields each value's path with its schema, down to where the schema lists no more properties."""
    for name, value in values.items():
        found = schema["properties"].get(name)
        yield prefix + name, found
        if isinstance(value, dict) and found is not None and "properties" in found:
            yield from _paths(value, found, f"{prefix}{name}.")


LISTED = dict(_paths(VALUES, SCHEMA))


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "crds").iterdir()))
def test_the_definitions_are_those_of_the_types(name: str) -> None:
    assert (CHART / "files" / "crds" / name).read_text() == (ROOT / "crds" / name).read_text()


def test_the_chart_has_no_other_definitions() -> None:
    assert {path.name for path in (CHART / "files" / "crds").iterdir()} == {path.name for path in (ROOT / "crds").iterdir()}


def test_every_value_is_in_the_schema() -> None:
    assert [path for path, schema in LISTED.items() if schema is None] == []


def test_every_property_of_the_schema_has_a_default() -> None:
    def properties(schema: dict[str, Any], prefix: str = "") -> Iterator[str]:
        for name, inner in schema.get("properties", {}).items():
            yield prefix + name
            yield from properties(inner, f"{prefix}{name}.")

    assert set(properties(SCHEMA)) - set(LISTED) == {"global"}  # helm's own, given to every chart


def test_the_schema_refuses_what_it_does_not_list() -> None:
    objects = [SCHEMA, *(schema for schema in LISTED.values() if schema and "properties" in schema)]
    assert all(schema["additionalProperties"] is False for schema in objects)


def test_the_schema_takes_the_defaults_and_no_namespace_without_a_name() -> None:
    """An empty one would be no selector in the network policies, and the operator would refuse to start."""
    jsonschema.validate(VALUES, SCHEMA)
    with pytest.raises(jsonschema.ValidationError, match=r"too short|non-empty"):
        jsonschema.validate({"monitoring": {"namespace": ""}}, SCHEMA)


def test_every_value_is_used() -> None:
    text = "\n".join(TEMPLATES.values())
    groups = {path.rpartition(".")[0] for path in LISTED}
    unused = [path for path in LISTED if path not in groups and not re.search(rf"\.{path.rpartition('.')[2]}\b", text)]
    assert unused == []


def test_the_notes_name_the_services_port() -> None:
    """A forward to it, and a base URL without a port, which is HTTP's own."""
    notes = (CHART / "templates" / "NOTES.txt").read_text()
    service = next(text for text in TEMPLATES["gateway.yaml"].split("---") if "kind: Service\n" in text)
    assert re.search(r"name: http\n\s+port: 80\n", service)
    assert re.findall(r"port-forward service/\{\{ \$gateway \}\} 8080:(\d+) ", notes) == ["80"]
    assert "http://{{ $gateway }}.{{ .Release.Namespace }}.svc/v1" in notes


def test_version_is_the_packages() -> None:
    source = (ROOT / "operator" / "modelyard" / "__init__.py").read_text()
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert f'__version__ = "{chart["appVersion"]}"' in source
    assert chart["version"] == chart["appVersion"]


@pytest.mark.parametrize("name", ["operator.yaml", "gateway.yaml"])
def test_pods_are_restricted_and_get_no_service_variables(name: str) -> None:
    """A Service called modelyard-gateway would set MODELYARD_GATEWAY_PORT and the like, which are names of settings."""
    text = TEMPLATES[name]
    assert "enableServiceLinks: false" in text
    assert 'include "modelyard.podSecurityContext"' in text
    assert 'include "modelyard.securityContext"' in text


def test_the_environment_of_the_chart_is_settings_of_the_processes() -> None:
    from modelyard.controller.settings import OperatorSettings
    from modelyard.gateway.settings import GatewaySettings

    for name, settings in (("operator.yaml", OperatorSettings), ("gateway.yaml", GatewaySettings)):
        given = {variable.lower() for variable in re.findall(r"name: MODELYARD_([A-Z_]+)", TEMPLATES[name])}
        assert given
        assert given <= set(settings.model_fields)
