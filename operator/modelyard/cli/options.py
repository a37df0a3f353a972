"""Options that several commands share."""

import os
from pathlib import Path
from typing import Annotated

import typer

from modelyard.local.errors import LocalFailed
from modelyard.local.state import State, default_path

Files = Annotated[
    list[Path],
    typer.Argument(metavar="FILE", help="Manifests: files with one or several documents, or folders of them.", show_default=False),
]
StateDir = Annotated[
    Path | None,
    typer.Option(
        "--state-dir",
        envvar="MODELYARD_STATE_DIR",
        metavar="DIR",
        help="Where `up` keeps state and logs, and other commands look for them. Default: modelyard in $XDG_STATE_HOME or ~/.local/state",
        show_default=False,
    ),
]
Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        envvar="MODELYARD_URL",
        metavar="URL",
        help="OpenAI base URL to talk to, such as a cluster's gateway; $MODELYARD_API_KEY is its key. Default: the running `modelyard up`.",
        show_default=False,
    ),
]


def state_of(chosen: Path | None) -> State:
    """Returns the state directory that was chosen, else the usual one."""
    return State(chosen or default_path(os.environ))


def base_url(url: str | None, state_dir: Path | None) -> str:
    """Returns where to send requests, without a slash at its end; raises NothingRuns, or LocalFailed for what is no URL."""
    if url is None:
        return state_of(state_dir).instance().url
    if not url.startswith(("http://", "https://")):
        raise LocalFailed(f"--url {url}: not an http:// or https:// URL", "Give a base URL such as http://127.0.0.1:8080/v1")
    base = url.rstrip("/")
    return base if base.endswith("/v1") else f"{base}/v1"
