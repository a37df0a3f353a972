"""Marks on the fields of a resource, from which the CRD's validation rules are generated."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rule:
    """A CEL rule on the annotated field or class; ``message`` is what the user reads, so it names the remedy.

    https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#validation-rules
    """

    cel: str
    message: str
    field_path: str = ""


@dataclass(frozen=True, slots=True)
class NotYet:
    """The field is part of the API and nothing acts on it: setting it is refused with "not supported yet"."""


@dataclass(frozen=True, slots=True)
class OnlyYet:
    """Of the field's values, only these are acted on; the others are refused with "not supported yet"."""

    values: tuple[str, ...]
