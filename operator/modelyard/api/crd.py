"""Writes what is generated from the types: ``python -m modelyard.api.crd crds docs/reference``; without the second folder CRDs alone."""

import sys
from pathlib import Path
from typing import Any

import yaml

from modelyard.api.inference_model import InferenceModelSpec, InferenceModelStatus
from modelyard.api.markers import RULES, JsonSchema, Rule
from modelyard.api.names import GROUP, KIND, PLURAL, VERSION
from modelyard.api.reference import reference
from modelyard.api.schema import structural
from modelyard.api.tenant import REFUSED, TenantSpec

_HEADER = "# Generated from operator/modelyard/api by `make crds`; a test fails when they differ.\n"
_NAME = Rule(
    "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
    "metadata.name must be lower-case letters, digits and '-', beginning with a letter, as Services are named; further names go to "
    "spec.model.aliases",
)
_READY = '.status.conditions[?(@.type=="Ready")]'
#: Those with a priority are shown with -o wide alone.
_COLUMNS: list[JsonSchema] = [
    {"name": "Ready", "type": "string", "jsonPath": f"{_READY}.status"},
    {"name": "Reason", "type": "string", "jsonPath": f"{_READY}.reason"},
    {"name": "Replicas", "type": "integer", "jsonPath": ".status.readyReplicas", "description": "Replicas that answer requests."},
    {"name": "Source", "type": "string", "jsonPath": ".spec.model.source"},
    {"name": "URL", "type": "string", "jsonPath": ".status.url"},
    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    {"name": "Engine", "type": "string", "jsonPath": ".status.engine.name", "priority": 1},
    {"name": "Message", "type": "string", "jsonPath": f"{_READY}.message", "priority": 1},
]
# `kubectl scale` sets the floor: where maxReplicas is left out it is the number of replicas, else the autoscaler goes on above it.
_SCALE = {
    "specReplicasPath": ".spec.scaling.minReplicas",
    "statusReplicasPath": ".status.replicas",
    "labelSelectorPath": ".status.selector",
}


def inference_models() -> JsonSchema:
    """Returns the CRD of InferenceModel."""
    root = _root("A model that Modelyard serves.", structural(InferenceModelSpec), [_NAME])
    root["properties"]["status"] = _status()
    version = {"subresources": {"status": {}, "scale": _SCALE}, "additionalPrinterColumns": _COLUMNS}
    return _crd(KIND, PLURAL, ["im"], root, version)


def tenants() -> JsonSchema:
    """Returns the CRD of Tenant."""
    return _crd(
        "Tenant",
        "tenants",
        [],
        _root("A group of clients with keys and limits of its own. Not supported yet.", structural(TenantSpec), [REFUSED]),
        {},
    )


def _status() -> JsonSchema:
    """Returns the status's schema. It has no defaults: what the operator has not said is absent."""
    schema: JsonSchema = _without_defaults(structural(InferenceModelStatus))
    schema["properties"]["conditions"] |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}
    return schema


def _without_defaults(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {key: _without_defaults(value) for key, value in schema.items() if key != "default"}
    return [_without_defaults(item) for item in schema] if isinstance(schema, list) else schema


def _root(description: str, spec: JsonSchema, rules: list[Rule]) -> JsonSchema:
    properties = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"}, "spec": spec}
    return {
        "description": description,
        "type": "object",
        "required": ["spec"],
        "properties": properties,
        RULES: [rule.to_dict() for rule in rules],
    }


def _crd(kind: str, plural: str, short: list[str], schema: JsonSchema, extra: JsonSchema) -> JsonSchema:
    names = {"kind": kind, "listKind": f"{kind}List", "plural": plural, "singular": kind.lower(), "categories": ["modelyard"]}
    version = {"name": VERSION, "served": True, "storage": True, **extra, "schema": {"openAPIV3Schema": schema}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {"group": GROUP, "scope": "Namespaced", "names": names | ({"shortNames": short} if short else {}), "versions": [version]},
    }


def files() -> dict[str, str]:
    """Returns the CRD files' contents by name."""
    return {f"{GROUP}_{crd['spec']['names']['plural']}.yaml": _HEADER + _yaml(crd) for crd in (inference_models(), tenants())}


class _Plain(yaml.SafeDumper):
    """Writes every value out, without anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _yaml(value: JsonSchema) -> str:
    return yaml.dump(value, Dumper=_Plain, sort_keys=False, width=140, allow_unicode=True)


def main(arguments: list[str]) -> None:
    """Writes the CRDs into the first folder and, when there is a second, the field reference into that."""
    targets = [(Path(arguments[0]), files())]
    if len(arguments) > 1:
        targets.append((Path(arguments[1]), {"inference-model.md": reference()}))
    for folder, contents in targets:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            (folder / name).write_text(content)


if __name__ == "__main__":
    main(sys.argv[1:])
