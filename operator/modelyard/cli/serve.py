"""`modelyard serve` and `modelyard pull`: the model server's own commands."""

import importlib.util
import os
import sys
from typing import NoReturn

import typer

from modelyard.local.errors import LocalFailed

SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
_MODULE = "modelyard_runtime"
_NEEDED = (_MODULE, "fastapi", "torch", "transformers")


def command(context: typer.Context) -> None:
    """Serve models on this machine with one process, without manifests: MODEL is a source, or name=source.

    All flags are the model server's own; `modelyard serve --help` lists them.

    \b
    Examples:
      modelyard serve builtin://smollm2-135m-instruct
      modelyard serve assistant=hf://Qwen/Qwen3-0.6B builtin://all-minilm-l6-v2 --port 8000
      modelyard serve --catalogue models.yaml --memory-budget 24Gi --idle-unload 30m
    """
    _become(["serve", *("--help" if word == "-h" else word for word in context.args)])


def pull(context: typer.Context) -> None:
    """Fetch a model's weights into the cache without serving them: hf://, s3://, gs://, file:// or builtin://.

    All flags are the model server's own; `modelyard pull --help` lists them.

    \b
    Examples:
      modelyard pull hf://Qwen/Qwen3-0.6B
      modelyard pull builtin://all-minilm-l6-v2 --cache-dir /opt/modelyard/models
    """
    _become(["pull", *("--help" if word == "-h" else word for word in context.args)])


def check_installed() -> None:
    """Raises LocalFailed where the model server cannot run; its own package comes with every install, what it needs does not."""
    if any(importlib.util.find_spec(name) is None for name in _NEEDED):
        raise LocalFailed("the model server is not installed here", "Install it: pip install 'modelyard[runtime,local]'")


def _become(arguments: list[str]) -> NoReturn:
    """Lets the model server take this process's place, so that signals and its exit code are its own."""
    check_installed()
    sys.stdout.flush()
    environment = os.environ | {"MODELYARD_PROGRAM": "modelyard"}
    os.execve(sys.executable, [sys.executable, "-m", f"{_MODULE}.main", *arguments], environment)  # noqa: S606 - our own module
