"""Manifests for `modelyard up`, refused where the API server would refuse them, with the same words."""

import re
from functools import cache
from typing import Any

from pydantic import ValidationError

from modelyard.api import crd
from modelyard.api.documents import Unreadable, read
from modelyard.api.inference_model import InferenceModel
from modelyard.api.markers import JsonSchema
from modelyard.api.names import API_VERSION, GROUP, KIND
from modelyard.api.rules import broken
from modelyard.api.structure import Problem, check, defaulted, siblings, unknown
from modelyard.api.wording import nearest, path_of, said

_SUBDOMAIN = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_METADATA = {
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
}


class InvalidManifest(Exception):
    """A manifest is refused. ``problems`` are worded as the API server words them; the message holds all, after the ``origin``."""

    def __init__(self, origin: str, summary: str, problems: tuple[str, ...] = (), hint: str = ""):
        listed = problems[0] if len(problems) == 1 else f"[{', '.join(problems)}]"
        super().__init__(f"{origin}: {summary}" + (f": {listed}" if problems else "") + hint)
        self.origin = origin
        self.problems = problems or (summary,)


def load_manifests(text: str, origin: str) -> list[InferenceModel]:
    """Returns the models of a YAML text of one or more documents, defaults filled in.

    ``origin`` (a file's name) begins the message of the InvalidManifest that is raised on the first bad document.
    """
    try:
        documents = read(text)
    except Unreadable as problem:
        raise InvalidManifest(origin, f"error parsing: {problem}") from problem
    if not documents:
        raise InvalidManifest(origin, f"holds no manifest: write an {KIND} of {API_VERSION}")
    return [_load(document, origin) for document in documents]


def validate(document: Any, origin: str) -> dict[str, Any]:
    """Returns a manifest with its defaults, or raises InvalidManifest. Knows every kind of which there is a CRD."""
    kind, schema = _schema_of(document, origin)
    metadata = document.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise InvalidManifest(origin, "metadata must be an object with a name")
    unexpected = [*unknown({k: v for k, v in document.items() if k != "metadata"}, schema), *_unknown_metadata(metadata)]
    if unexpected:
        words = ", ".join(f'unknown field "{field}"' for field in unexpected)
        version = API_VERSION.partition("/")[2]
        summary = f'{kind} in version "{version}" cannot be handled as a {kind}: strict decoding error: {words}'
        raise InvalidManifest(origin, summary, hint=_meant(unexpected, schema))
    complete: dict[str, Any] = defaulted({key: value for key, value in document.items() if key != "status"}, schema)
    problems = _problems(complete, schema)
    if problems:
        summary = f'{kind}.{GROUP} "{metadata.get("name", "")}" is invalid'
        raise InvalidManifest(origin, summary, tuple(map(str, problems)))
    return complete


def _load(document: Any, origin: str) -> InferenceModel:
    complete = validate(document, origin)
    try:
        return InferenceModel.model_validate(complete)
    except ValidationError as problem:  # metadata beyond the name, which has no schema here
        told = tuple(f"{path_of(error['loc'])}: Invalid value: {said(error)}" for error in problem.errors())
        raise InvalidManifest(origin, f'{KIND}.{GROUP} "{complete["metadata"].get("name")}" is invalid', told) from problem


@cache
def _schemas() -> dict[tuple[str, str], JsonSchema]:
    """The schemas by API version and kind."""
    versions = {crd_["spec"]["names"]["kind"]: crd_["spec"]["versions"][0] for crd_ in (crd.inference_models(), crd.tenants())}
    return {(API_VERSION, kind): version["schema"]["openAPIV3Schema"] for kind, version in versions.items()}


def _schema_of(document: Any, origin: str) -> tuple[str, JsonSchema]:
    if not isinstance(document, dict):
        raise InvalidManifest(
            origin, f"a manifest must be an object with apiVersion, kind, metadata and spec, not {type(document).__name__}"
        )
    missing = [f"{key} not set" for key in ("apiVersion", "kind") if not document.get(key)]
    if missing:
        raise InvalidManifest(origin, "error validating data", tuple(missing))
    version, kind = str(document["apiVersion"]), str(document["kind"])
    if (version, kind) not in _schemas():
        raise InvalidManifest(origin, f'no matches for kind "{kind}" in version "{version}": write an {KIND} of {API_VERSION}')
    return kind, _schemas()[version, kind]


def _problems(complete: dict[str, Any], schema: JsonSchema) -> list[Problem]:
    """Checks in the API server's order: metadata, schema, then the rules, unless a value is not even of its kind."""
    problems = [*_name_problems(complete.get("metadata") or {})]
    if "spec" not in complete:
        return [*problems, Problem("spec", "Required value", blocking=True)]
    problems += check(complete["spec"], schema["properties"]["spec"], "spec")
    if any(problem.blocking for problem in problems):
        return problems
    name = {"name": (complete.get("metadata") or {}).get("name", "")}
    return [*problems, *broken({**complete, "metadata": name}, schema, "")]


def _name_problems(metadata: dict[str, Any]) -> list[Problem]:
    name = metadata.get("name")
    if not name:
        return [Problem("metadata.name", "Required value: name or generateName is required", blocking=True)]
    if not isinstance(name, str) or not re.fullmatch(_SUBDOMAIN, name) or len(name) > 253:
        words = (
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an "
            f"alphanumeric character (e.g. 'example.com', regex used for validation is '{_SUBDOMAIN}')"
        )
        too_long = "must be no more than 253 characters"
        return [Problem("metadata.name", f'Invalid value: "{name}": {too_long if len(str(name)) > 253 else words}')]
    return []


def _meant(unexpected: list[str], schema: JsonSchema) -> str:
    """Returns which fields were most likely meant, in words that end a message; empty where none is close."""
    parts = [
        (above + dot, nearest(last, siblings(above + dot, schema))) for above, dot, last in (field.rpartition(".") for field in unexpected)
    ]
    meant = [f'"{above}{name}"' for above, name in parts if name]
    return f". Did you mean {' and '.join(meant)}?" if meant else ""


def _unknown_metadata(metadata: dict[str, Any]) -> list[str]:
    return [f"metadata.{key}" for key in sorted(metadata.keys() - _METADATA)]
