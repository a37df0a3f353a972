"""`modelyard get`."""

import json
from enum import StrEnum
from typing import Annotated, Any

import typer

from modelyard.cli import render
from modelyard.cli.options import StateDir, state_of
from modelyard.local.errors import LocalFailed


class Output(StrEnum):
    """How it is printed."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"


def command(
    model: Annotated[str | None, typer.Argument(metavar="MODEL", help="One model. Default: all.", show_default=False)] = None,
    output: Annotated[
        Output,
        typer.Option("--output", "-o", help="wide adds the engine and the reason's message, json and yaml print the whole resources."),
    ] = Output.TABLE,
    state_dir: StateDir = None,
) -> None:
    """Show the models that run here, as `kubectl get im` does.

    \b
    Examples:
      modelyard get
      modelyard get assistant -o wide      why it is not ready, and what to do; what computes it
      modelyard get assistant -o yaml      the whole resource, with its defaults and status
      modelyard get -o json | jq '.items[].status.conditions'
    """
    models = state_of(state_dir).models()
    if model is not None:
        models = [one for one in models if model in (one["metadata"]["name"], f"{one['metadata']['namespace']}/{one['metadata']['name']}")]
        if not models:
            raise LocalFailed(f"there is no model {model}", "`modelyard get` lists those that run")
    if output in (Output.TABLE, Output.WIDE):
        print(render.resources(models, wide=output is Output.WIDE))
    else:
        print(_written(models[0] if model and len(models) == 1 else _list(models), output))


def _list(models: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns models as one object, as `kubectl get -o json` does."""
    return {"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": models}


def _written(resource: dict[str, Any], output: Output) -> str:
    if output is Output.JSON:
        return json.dumps(_said(resource), indent=2)
    import yaml  # noqa: PLC0415  (takes time that a table does not need)

    text: str = yaml.safe_dump(_said(resource), sort_keys=False, allow_unicode=True)
    return text.rstrip()


def _said(value: Any) -> Any:
    """Returns a value without the fields that say nothing, as the API server leaves them out."""
    if isinstance(value, list):
        return [_said(one) for one in value]
    if isinstance(value, dict):
        return {key: _said(one) for key, one in value.items() if one is not None}
    return value
