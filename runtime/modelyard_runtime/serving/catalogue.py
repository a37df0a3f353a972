"""A catalogue: the YAML file that lists the models of a process.

    models:
      - source: hf://Qwen/Qwen3-0.6B
        name: assistant
        aliases: [gpt-4o-mini]
        preload: true
      - source: builtin://all-minilm-l6-v2
        max_queue: 64

An entry's further keys are the settings that a model may have of its own, called as the variables: ``max_queue`` for ``--max-queue``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import yaml
from modelyard.api.wording import nearest, path_of, said
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from modelyard_runtime.errors import ArgumentsInvalid, RuntimeFailed
from modelyard_runtime.setting_types import Capability, SourceText
from modelyard_runtime.settings import OptionSettings, TrustSettings
from modelyard_runtime.sources.source import known

#: Models of a process, whoever names them.
MOST_MODELS = 1024
_MAX_BYTES = 1 << 20
_REMEDY = "correct the file given by --catalogue; docs/serve.md shows what it may hold"

Name = Annotated[str, Field(min_length=1, max_length=512, pattern=r"^[^\s\x00-\x1f]+$")]


class Entry(OptionSettings):
    """A model: its source, its names, and settings of its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: SourceText
    name: Name | None = None
    aliases: Annotated[tuple[Name, ...], Field(max_length=64)] = ()
    capabilities: Annotated[tuple[Capability, ...], Field(max_length=16)] = ()
    preload: bool = False
    pinned: bool = False

    def own(self) -> dict[str, Any]:
        """Returns the settings that the entry gives."""
        known = {*OptionSettings.model_fields, *TrustSettings.model_fields, "token_file"}
        return {name: getattr(self, name) for name in sorted(self.model_fields_set & known)}


class FileEntry(Entry, TrustSettings):
    """An entry of a file, which may name files of this machine and let a model's code run."""

    token_file: Path | None = None


class Catalogue(BaseModel):
    """The file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: Annotated[tuple[FileEntry, ...], Field(min_length=1, max_length=MOST_MODELS)]


def read(path: Path) -> tuple[Entry, ...]:
    """Reads a catalogue. Raises ArgumentsInvalid, naming file, line and key."""
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ArgumentsInvalid(f"--catalogue: cannot read {path}: {error.strerror}", _REMEDY) from error
    if len(content) > _MAX_BYTES:
        raise ArgumentsInvalid(f"--catalogue: {path} is larger than {_MAX_BYTES} bytes", _REMEDY)
    return parse(content, str(path))


def parse(content: bytes, path: str) -> tuple[Entry, ...]:
    """Parses a catalogue's text; ``path`` is what errors call it. Raises ArgumentsInvalid."""
    try:
        root = yaml.compose(content.decode(), Loader=yaml.SafeLoader)
        _check_keys(root, path)
        value = yaml.safe_load(content)
        models = Catalogue.model_validate(value).models
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        if isinstance(error, ValidationError):
            # A key that is misspelt explains one that is missing.
            problem = min(error.errors(include_url=False), key=lambda one: one["type"] != "extra_forbidden")
            raise _invalid(path, _line(root, problem["loc"]), path_of(problem["loc"]), _said(problem)) from None
        mark = getattr(error, "problem_mark", None)
        said = getattr(error, "problem", None) or str(error) or "nested too deeply"
        raise _invalid(path, mark.line + 1 if mark else 1, "", f"not valid YAML: {said}") from None
    for index, entry in enumerate(models):
        _check_source(entry.source, path, root, ("models", index, "source"))
    return models


def _check_source(source: str, path: str, root: yaml.Node | None, location: tuple[int | str, ...]) -> None:
    """Refuses at start what would only come out when somebody asks for the model."""
    try:
        known(source)
    except RuntimeFailed as failure:
        told = f"{failure.message.removeprefix('--model: ')}; {failure.remedy}"
        raise _invalid(path, _line(root, location), path_of(location), told) from None


def _check_keys(node: yaml.Node | None, path: str) -> None:
    """Refuses a key that is given twice, of which YAML would silently drop one."""
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if key.value in seen:
                raise _invalid(path, key.start_mark.line + 1, str(key.value), "given twice; keep one")
            seen.add(key.value)
            _check_keys(value, path)
    elif isinstance(node, yaml.SequenceNode):
        for child in node.value:
            _check_keys(child, path)


def _line(node: yaml.Node | None, location: tuple[int | str, ...]) -> int:
    """Returns the line, from 1, of what a location leads to, or of the closest thing around it."""
    line = 1
    for part in location:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == part), None)
            if found is None:
                break
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
    return line


def _said(problem: Any) -> str:
    if problem["type"] == "missing":
        return "is required"
    if problem["type"] == "extra_forbidden":
        known = FileEntry.model_fields if len(problem["loc"]) > 1 else Catalogue.model_fields
        meant = nearest(str(problem["loc"][-1]), known)
        return f"is not known here; did you mean {meant}?" if meant else f"is not known here; known are {', '.join(sorted(known))}"
    if problem["type"] in {"model_type", "model_attributes_type"}:
        return "must be a mapping, such as `models:` with a list of entries"
    return f"{said(problem)}, not {str(problem['input'])[:100]!r}"


def _invalid(path: str, line: int, where: str, said: str) -> ArgumentsInvalid:
    return ArgumentsInvalid(f"--catalogue: {path}, line {line}: {where + ': ' if where else ''}{said}", _REMEDY)
