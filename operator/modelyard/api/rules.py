"""Evaluates the CRD's CEL rules without an API server: one text of each rule, two evaluators.

The evaluator (cel-rust) lacks Kubernetes' quantity library, which is added here; the rules keep to what both know.
https://kubernetes.io/docs/reference/using-api/cel/#kubernetes-quantity-library
"""

import json
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

from modelyard.api import quantities
from modelyard.api.markers import RULES, JsonSchema
from modelyard.api.structure import Problem

if TYPE_CHECKING:
    import cel


def broken(value: Any, schema: JsonSchema, path: str) -> Iterator[Problem]:
    """Yields the rules that a value with defaults breaks, itself and below. The value fits the schema."""
    for rule in schema.get(RULES, ()):
        if not _holds(rule["rule"], value):
            yield _problem(rule, value, path)
    if isinstance(value, dict):
        for key, item in value.items():
            inner = schema.get("properties", {}).get(key)
            if inner is not None:
                yield from broken(item, inner, f"{path}.{key}" if path else key)
            elif "additionalProperties" in schema:
                yield from broken(item, schema["additionalProperties"], f"{path}[{key}]")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from broken(item, schema["items"], f"{path}[{index}]")


def _problem(rule: JsonSchema, value: Any, path: str) -> Problem:
    """Words a broken rule as the API server does, which shows the value of a scalar only."""
    field = f"{path}{rule.get('fieldPath', '')}"
    shown = "" if isinstance(value, dict | list) else f"{json.dumps(value, ensure_ascii=False)}: "
    kinds = {"FieldValueForbidden": "Forbidden: ", "FieldValueRequired": "Required value: "}
    return Problem(field or "<nil>", kinds.get(rule.get("reason", ""), f"Invalid value: {shown}") + rule["message"])


def _holds(rule: str, value: Any) -> bool:
    context = _context()
    context.add_variable("self", value)
    return bool(_program(rule).execute(context))


@cache
def _program(rule: str) -> "cel.Program":
    import cel  # noqa: PLC0415  (of the extra `local`: only `modelyard up` checks manifests itself)

    return cel.compile(rule)


def _context() -> "cel.Context":
    import cel  # noqa: PLC0415

    context = cel.Context()
    context.add_function("isQuantity", _is_quantity)
    context.add_function("quantity", lambda text: float(quantities.parse(text)))
    context.add_function("isGreaterThan", lambda one, other: one > other)
    context.add_function("isLessThan", lambda one, other: one < other)
    return context


def _is_quantity(text: str) -> bool:
    try:
        quantities.parse(text)
    except ValueError:
        return False
    return True
