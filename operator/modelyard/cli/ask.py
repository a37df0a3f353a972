"""`modelyard ask`."""

import asyncio
import sys
from typing import Annotated

import typer

from modelyard.cli.options import StateDir, Url, base_url
from modelyard.local.errors import LocalFailed


def command(
    words: Annotated[list[str], typer.Argument(metavar="[MODEL] TEXT", help="The question; - reads it from standard input.")],
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", metavar="N", min=1, help="Longest answer, in tokens.", show_default=False)
    ] = None,
    url: Url = None,
    state_dir: StateDir = None,
) -> None:
    """Ask one question and print the answer as it comes.

    \b
    Examples:
      modelyard ask "What is the capital of France?"
      modelyard ask assistant "Write a haiku about rivers."
      git diff | modelyard ask assistant -
      modelyard ask assistant "Hello" --url http://gateway.example.com/v1
    """
    if len(words) > 2:
        raise typer.BadParameter("give the question in quotes: modelyard ask [MODEL] TEXT", param_hint="TEXT")
    model = words[0] if len(words) == 2 else None
    text = sys.stdin.read() if words[-1] == "-" else words[-1]
    if not text.strip():
        raise LocalFailed("the question is empty", 'Ask one: modelyard ask "What is the capital of France?"')
    asyncio.run(_ask(base_url(url, state_dir), model, text, max_tokens))


async def _ask(url: str, model: str | None, text: str, max_tokens: int | None) -> None:
    from modelyard.cli import client  # noqa: PLC0415

    chosen = model or await client.chat_model(url)
    sampling = {"max_tokens": max_tokens} if max_tokens else {}
    async for piece in client.stream_chat(url, chosen, [{"role": "user", "content": text}], **sampling):
        print(piece, end="", flush=True)
    print()
