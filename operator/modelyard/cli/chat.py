"""`modelyard chat`."""

import asyncio
import contextlib
import importlib
import sys
from typing import Annotated

import typer

from modelyard.cli.options import StateDir, Url, base_url
from modelyard.local.errors import LocalFailed

_INTRODUCTION = "You talk to {model}. Ctrl-C stops an answer, /new forgets the conversation, /exit or Ctrl-D leaves."

_HELP = ("/help", "/?")


def command(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="The model. Default: the first one that can chat.", show_default=False)
    ] = None,
    system: Annotated[str, typer.Option("--system", metavar="TEXT", help="What the model is told before the conversation.")] = "",
    url: Url = None,
    state_dir: StateDir = None,
) -> None:
    """Talk to a model; it remembers the conversation.

    \b
    Examples:
      modelyard chat
      modelyard chat assistant --system "Answer in one sentence."
      modelyard chat assistant --url http://gateway.example.com/v1
    """
    from modelyard.cli import client  # noqa: PLC0415

    base = base_url(url, state_dir)
    chosen = asyncio.run(client.chat_model(base, model))
    _converse(base, chosen, [{"role": "system", "content": system}] if system else [])


def _converse(url: str, model: str, preface: list[dict[str, str]]) -> None:
    interactive = sys.stdin.isatty()
    if interactive:
        with contextlib.suppress(ImportError):
            importlib.import_module("readline")  # gives input() its line editing and history
        print(_INTRODUCTION.format(model=model))
    messages = list(preface)
    while (text := _read(interactive)) is not None:
        if text == "/new":
            messages = list(preface)
        elif text in _HELP:
            print(_INTRODUCTION.format(model=model))
        elif text:
            messages.append({"role": "user", "content": text})
            if (answer := _answer(url, model, messages)) is None:
                messages.pop()
                if not interactive:
                    sys.exit(1)
            else:
                messages.append({"role": "assistant", "content": answer})


def _read(interactive: bool) -> str | None:
    """Returns what the user says, or None when they leave."""
    try:
        text = input("> " if interactive else "").strip()
    except (EOFError, KeyboardInterrupt):
        if interactive:
            print()
        return None
    return None if text in ("/exit", "/quit", "/bye") else text


def _answer(url: str, model: str, messages: list[dict[str, str]]) -> str | None:
    """Prints the answer as it comes and returns it, as far as it came when it was stopped; None when there was none at all."""
    pieces: list[str] = []
    try:
        asyncio.run(_stream(url, model, messages, pieces))
    except KeyboardInterrupt:
        print(" …")
        return "".join(pieces) or None
    except LocalFailed as failure:
        print(f"modelyard: {failure}", file=sys.stderr)
        return None
    print()
    return "".join(pieces)


async def _stream(url: str, model: str, messages: list[dict[str, str]], pieces: list[str]) -> None:
    from modelyard.cli import client  # noqa: PLC0415

    async with contextlib.aclosing(client.stream_chat(url, model, messages)) as answer:
        async for piece in answer:
            pieces.append(piece)
            print(piece, end="", flush=True)
