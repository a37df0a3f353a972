"""`modelyard logs`."""

import time
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from modelyard.cli.options import StateDir, state_of
from modelyard.local.errors import LocalFailed
from modelyard.local.state import State

_POLL_SECONDS = 0.2


def command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model, or namespace/model.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C, or until `modelyard up` ends.")] = False,
    replica: Annotated[
        str | None, typer.Option("--replica", metavar="NAME", help="One replica, by its name or the end of it.", show_default=False)
    ] = None,
    tail: Annotated[int | None, typer.Option("--tail", min=0, metavar="N", help="Begin with the last N lines.", show_default=False)] = None,
    state_dir: StateDir = None,
) -> None:
    """Print what a model's processes say.

    \b
    Examples:
      modelyard logs assistant
      modelyard logs assistant -f --tail 20
      modelyard logs assistant --replica x7k2p
    """
    state = state_of(state_dir)
    state.instance()
    found = _files(state, model, replica)
    if not found:
        raise _nothing(state, model, replica)
    opened: dict[Path, BinaryIO] = {}
    try:
        _print_new(found, opened, tail)
        while follow and state.is_owned():
            time.sleep(_POLL_SECONDS)
            _print_new(_files(state, model, replica), opened, None)
    finally:
        for file in opened.values():
            file.close()


def _files(state: State, model: str, replica: str | None) -> list[Path]:
    namespace, _, name = model.rpartition("/")
    return [path for path in state.log_files(namespace or "default", name) if replica is None or path.stem.endswith(replica)]


def _nothing(state: State, model: str, replica: str | None) -> LocalFailed:
    """Returns why there is no log to print."""
    if replica and (others := _files(state, model, None)):
        return LocalFailed(f"{model} has no replica {replica}", f"It has {', '.join(path.stem for path in others)}")
    if any(one["metadata"]["name"] == model.rpartition("/")[2] for one in state.models()):
        return LocalFailed(
            f"no replica of {model} has run yet", "A request starts one, unless `modelyard get -o wide` says what is in its way"
        )
    return LocalFailed(f"there is no log of {model}", "`modelyard get` lists the models that run")


def _print_new(paths: list[Path], opened: dict[Path, BinaryIO], tail: int | None) -> None:
    """Prints the lines that are new in each file, with the replica's name in front when there are several."""
    for path in paths:
        if path not in opened:
            opened[path] = path.open("rb")
        lines = opened[path].read().decode("utf-8", "replace").splitlines()
        prefix = f"[{path.stem}] " if len(paths) > 1 else ""
        for line in lines if tail is None else lines[len(lines) - min(tail, len(lines)) :]:
            print(f"{prefix}{line}", flush=True)
