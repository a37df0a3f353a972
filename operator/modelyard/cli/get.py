"""`modelyard get`."""

import json
from enum import StrEnum
from typing import Annotated

import typer

from modelyard.cli import render
from modelyard.cli.options import StateDir, state_of
from modelyard.local.errors import LocalFailed


class Output(StrEnum):
    """How it is printed."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"


def command(
    model: Annotated[str | None, typer.Argument(help="One model. Default: all.", show_default=False)] = None,
    output: Annotated[
        Output, typer.Option("--output", "-o", help="wide adds the reason's message, json prints the whole resources.")
    ] = Output.TABLE,
    state_dir: StateDir = None,
) -> None:
    """Show the models that run here, as `kubectl get im` does.

    \b
    Examples:
      modelyard get
      modelyard get assistant -o wide      why it is not ready, and what to do
      modelyard get -o json | jq '.[].status.conditions'
    """
    models = state_of(state_dir).models()
    if model is not None:
        models = [one for one in models if model in (one["metadata"]["name"], f"{one['metadata']['namespace']}/{one['metadata']['name']}")]
        if not models:
            raise LocalFailed(f"there is no model {model}", "`modelyard get` lists those that run")
    print(json.dumps(models, indent=2) if output is Output.JSON else render.resources(models, wide=output is Output.WIDE))
