"""`modelyard up`."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from modelyard.cli.options import Files, StateDir, state_of
from modelyard.cli.serve import check_installed

Ask = Annotated[str | None, typer.Option("--ask", metavar="TEXT", help="Ask the first model that can chat, and stream its answer.")]
Once = Annotated[
    bool,
    typer.Option("--once", help="End after the answer, or when all models are ready. Implied with --ask where there is no terminal."),
]
Port = Annotated[
    int | None,
    typer.Option(
        "--port", envvar="MODELYARD_PORT", metavar="N", min=0, max=65535, help="The gateway's port. Default: 8080, or a free one."
    ),
]
Host = Annotated[
    str, typer.Option("--host", envvar="MODELYARD_HOST", metavar="ADDRESS", help="The gateway's address; 0.0.0.0 lets other machines in.")
]
Watch = Annotated[bool, typer.Option("--watch/--no-watch", help="Apply the manifests again when they change.")]
Claims = Annotated[
    list[str] | None, typer.Option("--pvc", metavar="CLAIM=FOLDER", help="The folder that stands for a claim in pvc://claim/path.")
]
Secrets = Annotated[
    list[str] | None, typer.Option("--secret", metavar="NAME=FILE", help="The file whose token stands for a credentialsSecret.")
]


def command(
    files: Files,
    *,
    ask: Ask = None,
    once: Once = False,
    port: Port = None,
    host: Host = "127.0.0.1",
    watch: Watch = True,
    pvc: Claims = None,
    secret: Secrets = None,
    state_dir: StateDir = None,
) -> None:
    """Serve the models of FILES on this machine until Ctrl-C.

    Each replica is a process; the gateway answers OpenAI clients and routes by model name. Replicas, scale to zero, cold start and
    rollouts follow the manifest as in a cluster. Edit a file, and the change is applied. The first Ctrl-C lets running requests
    finish; a second one does not.

    \b
    Examples:
      modelyard up examples/quickstart.yaml
      modelyard up examples/quickstart.yaml --ask "What is the capital of France?" --once
      modelyard up chat.yaml embeddings.yaml --port 9000
      modelyard up models/ --pvc weights=/data/weights --secret hub=~/.hf-token
    """
    from modelyard.cli.session import Options, run  # noqa: PLC0415
    from modelyard.local.container import Mounts  # noqa: PLC0415

    check_installed()
    options = Options(
        files=tuple(files),
        ask=ask,
        once=once or (ask is not None and not sys.stdout.isatty()),
        address=host,
        port=port,
        watch=watch,
        mounts=Mounts(_pairs("--pvc", pvc), _pairs("--secret", secret)),
        state=state_of(state_dir),
        cache_dir=_cache_dir(),
    )
    sys.exit(run(options))


def _pairs(flag: str, given: list[str] | None) -> dict[str, Path]:
    pairs: dict[str, Path] = {}
    for pair in given or ():
        name, equals, path = pair.partition("=")
        found = Path(path).expanduser().absolute()
        if not equals or not name:
            raise typer.BadParameter(f"{pair!r} is not NAME=PATH", param_hint=flag)
        if not found.exists():
            raise typer.BadParameter(f"{found} does not exist", param_hint=flag)
        pairs[name] = found
    return pairs


def _cache_dir() -> Path:
    """Returns where weights are kept: what the runtime would choose by itself, too."""
    if chosen := os.environ.get("MODELYARD_CACHE_DIR"):
        return Path(chosen).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "modelyard"
