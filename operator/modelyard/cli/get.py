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
    model: Annotated[str | None, typer.Argument(help="One model. Default: all.", show_default=False)] = None,
    output: Annotated[
        Output, typer.Option("--output", "-o", help="wide adds the reason's message, json and yaml print the whole resources.")
    ] = Output.TABLE,
    state_dir: StateDir = None,
) -> None:
    """Show the models that run here, as `kubectl get im` does.

    \b
    Examples:
      modelyard get
      modelyard get assistant -o wide      why it is not ready, and what to do
      modelyard get assistant -o yaml      the whole resource, with its defaults and status
      modelyard get -o json | jq '.[].status.conditions'
    """
    models = state_of(state_dir).models()
    if model is not None:
        models = [one for one in models if model in (one["metadata"]["name"], f"{one['metadata']['namespace']}/{one['metadata']['name']}")]
        if not models:
            raise LocalFailed(f"there is no model {model}", "`modelyard get` lists those that run")
    print(_shown(models, output))


def _shown(models: list[dict[str, Any]], output: Output) -> str:
    if output is Output.JSON:
        return json.dumps([_said(model) for model in models], indent=2)
    if output is Output.YAML:
        import yaml  # noqa: PLC0415  (takes time that a table does not need)

        text: str = yaml.safe_dump_all([_said(model) for model in models], sort_keys=False, allow_unicode=True)
        return text.rstrip()
    return render.resources(models, wide=output is Output.WIDE)


def _said(value: Any) -> Any:
    """Returns a value without the fields that say nothing, as the API server leaves them out."""
    if isinstance(value, list):
        return [_said(one) for one in value]
    if isinstance(value, dict):
        return {key: _said(one) for key, one in value.items() if one is not None}
    return value
