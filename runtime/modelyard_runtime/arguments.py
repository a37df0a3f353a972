"""The command line, made from the settings: flags, help and errors come from the same fields as the environment."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Annotated, Any, Literal, NoReturn, TypeVar, get_args, get_origin

from modelyard.api import durations
from modelyard.api.names import ENV_PREFIX
from modelyard.api.wording import nearest, said
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from modelyard_runtime.errors import ArgumentsInvalid
from modelyard_runtime.settings import PullSettings, ServeSettings, groups

_DESCRIPTION = "Serves models to OpenAI clients."
_EXAMPLES = """examples:
  modelyard-runtime serve builtin://tiny-chat
  modelyard-runtime serve assistant=hf://HuggingFaceTB/SmolLM2-135M-Instruct builtin://all-minilm-l6-v2 --port 8000
  modelyard-runtime serve --model file:///models/qwen3 --served-model-name qwen --dtype bfloat16 --max-model-length 8192
  modelyard-runtime serve --catalogue models.yaml --memory-budget 24Gi --idle-unload 30m
  modelyard-runtime pull builtin://all-minilm-l6-v2 --cache-dir /opt/modelyard/models

then:
  curl localhost:8000/v1/chat/completions -H 'content-type: application/json' \\
    -d '{"model": "tiny-chat", "messages": [{"role": "user", "content": "Hello"}]}'

Each flag may be given in the environment: --max-queue is MODELYARD_MAX_QUEUE. A flag wins."""

_NAME = "modelyard-runtime"
_SECRET = {"environment_only": True}
#: What other servers call a flag of ours, where the names are not alike.
_ELSEWHERE = {
    "--max-num-seqs": "--max-concurrent-sequences",
    "--lora-modules": "--adapter",
    "--download-dir": "--cache-dir",
    "--gpu-memory-utilization": "--memory-budget",
    "--keep-alive": "--idle-unload",
    "--enable-auto-tool-choice": "--tool-parser",
    "--api-key": "--api-key-file",
    "--task": "--capability",
    "--runner": "--capability",
}

S = TypeVar("S", ServeSettings, PullSettings)


class _Parser(argparse.ArgumentParser):
    """Raises instead of exiting, so that a bad flag reaches the termination log too."""

    def error(self, message: str) -> NoReturn:
        raise ArgumentsInvalid(message)


def parse(argv: Sequence[str]) -> ServeSettings | PullSettings:
    """Parses the command line and the environment. Raises ArgumentsInvalid, naming the flag."""
    try:
        return _parsed(argv)
    except ArgumentsInvalid as failure:
        if argv[:1] != ["pull"]:
            raise
        raise ArgumentsInvalid(failure.message, f"{_NAME} pull --help lists the flags that there are") from None


def _parsed(argv: Sequence[str]) -> ServeSettings | PullSettings:
    parser = _parser()
    parsed, rest = parser.parse_known_args(_spelled_out(argv))
    namespace = vars(parsed)
    command = namespace.pop("command")
    # Models may stand anywhere among the flags, which argparse does not do for subcommands.
    if unknown := [word for word in rest if word.startswith("-") or command != "serve"]:
        raise ArgumentsInvalid(f"unrecognized arguments: {' '.join(unknown)[:200]}{_meant(unknown, command)}")
    namespace["positional"] = [*namespace.get("positional", ()), *rest]
    if positional := namespace.pop("positional", None):
        namespace["model"] = [*positional, *namespace.get("model", ())]
    return _settings(ServeSettings, namespace) if command == "serve" else _settings(PullSettings, namespace)


def _meant(unknown: Sequence[str], command: str) -> str:
    """Returns which flag was most likely meant, as words that end a message; empty where none is close."""
    settings: type[BaseModel] = ServeSettings if command == "serve" else PullSettings
    known = [_flag(field) for field, info in settings.model_fields.items() if info.json_schema_extra != _SECRET]
    words = [word.partition("=")[0] for word in unknown if word.startswith("--")]
    meant = [_ELSEWHERE.get(word) or nearest(word, known) for word in words]
    return next((f" (did you mean {flag}?)" for flag in meant if flag in known), "")


def _spelled_out(argv: Sequence[str]) -> list[str]:
    """Returns the words with ``=true`` after flags that need no value, so that none takes the model that follows for its value."""
    switches = {_flag(field) for field, info in ServeSettings.model_fields.items() if isinstance(info.default, bool)}
    pairs = zip(argv, [*argv[1:], ""], strict=False)
    return [f"{word}=true" if word in switches and after not in {"true", "false"} else word for word, after in pairs]


def _settings(cls: type[S], values: dict[str, Any]) -> S:
    try:
        return cls(**values)
    except ValidationError as error:
        raise ArgumentsInvalid("; ".join(_problems(cls, error, values))) from None


def _problems(cls: type[BaseModel], error: ValidationError, given: dict[str, Any]) -> Iterable[str]:
    for problem in error.errors(include_url=False):
        field = str(problem["loc"][0]).removeprefix(ENV_PREFIX).lower()
        variable = f"{ENV_PREFIX}{field.upper()}"
        where = variable if field not in given and variable in os.environ else _flag(field) if field != "source" else "SOURCE"
        if problem["type"] == "missing":
            yield f"{where} is required: {(cls.model_fields[field].description or '').rstrip('.')}"
        else:
            yield f"{where}: {said(problem)}, not {str(problem['input'])[:100]!r}"


def _program() -> str:
    """Returns what the user called: `modelyard serve` hands over to this program, and says so."""
    return os.environ.get(f"{ENV_PREFIX}PROGRAM") or _NAME


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=_program(),
        description=_DESCRIPTION,
        epilog=_EXAMPLES.replace(_NAME, _program()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)
    serve = _command(commands, "serve", "serve models over HTTP", ServeSettings)
    serve.usage = f"{_program()} serve [FLAG …] [MODEL …]"
    serve.add_argument("positional", nargs="*", metavar="MODEL", help="A source, or name=source; the same as --model.")
    pull = _command(commands, "pull", "fetch and convert weights into the cache, without serving them", PullSettings)
    pull.add_argument("source", metavar="SOURCE", help=PullSettings.model_fields["source"].description)
    return parser


def _command(commands: Any, name: str, summary: str, settings: type[BaseModel]) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=_EXAMPLES.replace(_NAME, _program()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    for group in groups(settings):
        section = parser.add_argument_group((group.__doc__ or "").rstrip(".").lower())
        for field, info in group.model_fields.items():
            if info.json_schema_extra == _SECRET:  # a command line is there for all to see
                continue
            section.add_argument(_flag(field), **_options(field, settings.model_fields[field]))
    return parser


def _options(field: str, info: FieldInfo) -> dict[str, Any]:
    repeatable = isinstance(info.default, tuple)
    default = info.get_default(call_default_factory=True, validated_data={})
    shown = "" if info.is_required() or default is None or default == () else f" Default {_render(default)}."
    told = f"{info.description}{shown}".replace("%", "%%")
    if isinstance(default, bool):
        return {"nargs": "?", "const": "true", "metavar": "true|false", "help": told}
    return {"action": "append" if repeatable else "store", "metavar": _metavar(field, info), "help": told}


def _metavar(field: str, info: FieldInfo) -> str:
    """Returns what stands for a flag's value: the values that there are, where they can be listed."""
    kinds = list(_leaves(info.annotation))
    choices = [str(choice) for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
    if choices:
        return "|".join(choices)
    return "N" if int in kinds else "TIME" if timedelta in kinds else field.rsplit("_", 1)[-1].upper()


def _leaves(kind: Any) -> Iterator[Any]:
    """Yields the types that an annotation is put together from; a Literal is one."""
    inner = () if get_origin(kind) is Literal else get_args(kind)
    if not inner:
        yield kind
    for part in inner[:1] if get_origin(kind) is Annotated else inner:
        yield from _leaves(part)


def _render(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    if isinstance(value, bool):
        return str(value).lower()
    return durations.render(value) if isinstance(value, timedelta) else str(value)


def _flag(field: str) -> str:
    return f"--{field.replace('_', '-')}"
