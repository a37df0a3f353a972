"""Entry point of `modelyard`. Everything heavy is imported by the command that needs it, so that ``--help`` answers at once."""

import sys
from typing import NoReturn

import typer

from modelyard.cli import ask, chat, down, get, logs, serve, up, validate, version
from modelyard.local.errors import LocalFailed

_HELP = """Serve language models on this machine, from the same manifests that a cluster takes.

\b
Start here:
  modelyard up examples/quickstart.yaml --ask "What is the capital of France?"
Then, in another terminal:
  modelyard chat            talk to the model
  modelyard get             see what runs, and why something does not
  modelyard logs assistant  read what the model's processes say
  modelyard down            stop it all, finishing running requests
Or serve models with one process and no manifest:
  modelyard serve builtin://smollm2-135m-instruct builtin://all-minilm-l6-v2

Every OpenAI client works too: its base URL is printed by `modelyard up`.
"""

app = typer.Typer(
    help=_HELP,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (up, chat, ask, get, logs, down, validate, version):
    app.command(name=module.__name__.rpartition(".")[2])(module.command)
app.command(name="serve", context_settings=serve.SETTINGS)(serve.command)
app.command(name="pull", context_settings=serve.SETTINGS)(serve.pull)


def main() -> NoReturn:
    """Runs a command. Exits with 0, 1 (a failure, told in one line with its remedy), 2 (wrong usage) or 130 (interrupted)."""
    try:
        app()
    except LocalFailed as failure:
        print(f"modelyard: {failure}", file=sys.stderr)
        sys.exit(failure.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()  # the reader has left, as `head` does
        sys.exit(0)
    sys.exit(0)


if __name__ == "__main__":
    main()
