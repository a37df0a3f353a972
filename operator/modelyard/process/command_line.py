"""The command line of a process of ours, made from its settings: each field is a flag, and an environment variable too."""

import argparse
import sys
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Literal, NoReturn, TypeVar, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from modelyard.api import durations
from modelyard.api.names import ENV_PREFIX
from modelyard.api.wording import nearest, said

_EPILOG = f"Each flag may also be given as an environment variable: --host is {ENV_PREFIX}HOST. A flag wins."
_WRONG_USAGE = 2

S = TypeVar("S", bound=BaseSettings)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in a line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(_WRONG_USAGE, f"{self.prog}: {message}{'' if message.endswith('?') else '.'} {self.prog} --help lists the flags.\n")


def parse(settings: type[S], program: str, description: str, arguments: Sequence[str]) -> S:
    """Returns the settings: flags over environment variables over defaults.

    Raises SystemExit with 2 on what cannot be, after a line for each bad value on standard error.
    """
    parser = _parser(settings, program, description)
    given, rest = parser.parse_known_args(arguments)
    values = {name: value for name, value in vars(given).items() if name in settings.model_fields}
    if rest:
        meant = nearest(rest[0].partition("=")[0], map(_flag, settings.model_fields))
        parser.error(f"there is no {rest[0][:100]}" + (f"; did you mean {meant}?" if meant else ""))
    try:
        return settings(**values)
    except ValidationError as error:
        for problem in error.errors(include_url=False):
            name = str(problem["loc"][0])
            where = _flag(name) if name in values else f"{ENV_PREFIX}{name.upper()}"
            print(f"{program}: {where}: {said(problem)}, not {problem['input']!r}", file=sys.stderr)
        sys.exit(_WRONG_USAGE)


def _parser(settings: type[BaseSettings], program: str, description: str) -> argparse.ArgumentParser:
    parser = _Parser(prog=program, usage=f"{program} [FLAG …]", description=description, epilog=_EPILOG, allow_abbrev=False)
    for name, field in settings.model_fields.items():
        parser.add_argument(_flag(name), default=argparse.SUPPRESS, help=_help(field), **_kind(field))
    return parser


def _kind(field: FieldInfo) -> dict[str, Any]:
    if field.annotation is bool:
        return {"action": argparse.BooleanOptionalAction}
    if get_origin(field.annotation) is Literal:
        return {"metavar": "|".join(get_args(field.annotation))}
    values: dict[Any, str] = {int: "N", float: "SECONDS", timedelta: "TIME"}
    return {"metavar": values.get(field.annotation, "TEXT")}


def _help(field: FieldInfo) -> str:
    """Returns a flag's help, with the default as it would be written."""
    default = field.default
    if field.default_factory is not None:
        shown = "this machine's host name"
    elif isinstance(default, timedelta):
        shown = durations.render(default)
    elif isinstance(default, float):
        shown = f"{default:g}"
    else:
        shown = str(default).lower() if isinstance(default, bool) else str(default)
    return f"{field.description}{f' Default {shown}.' if shown else ''}".replace("%", "%%")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
