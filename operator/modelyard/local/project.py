"""The manifests: files and folders read into models, and read again when they change.

A file that has become invalid, or unreadable, leaves what it said before in force; the error is told.
"""

from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from modelyard.api.inference_model import InferenceModel
from modelyard.api.validation import InvalidManifest, load_manifests
from modelyard.controller.types import Key
from modelyard.local.errors import InvalidProject

_SUFFIXES = (".yaml", ".yml", ".json")
_FILE_BYTES = 4 << 20


@dataclass(frozen=True)
class Project:
    """What the files say. ``problems`` are the errors of files that could not be taken over."""

    paths: tuple[Path, ...]
    files: dict[Path, tuple[InferenceModel, ...]] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    @property
    def models(self) -> dict[Key, InferenceModel]:
        """The models by key."""
        return {key_of(model): model for models in self.files.values() for model in models}


def key_of(model: InferenceModel) -> Key:
    """Returns a model's key."""
    return Key(model.metadata.namespace, model.metadata.name)


def load(paths: Sequence[Path]) -> Project:
    """Reads files and folders; raises InvalidProject with every error."""
    project = reload(Project(tuple(path.absolute() for path in paths)))
    if project.problems:
        raise InvalidProject("\n".join(project.problems))
    if not project.models:
        raise InvalidProject(f"{', '.join(map(str, paths))}: no InferenceModel", "See examples/quickstart.yaml for one")
    return project


def reload(project: Project) -> Project:
    """Reads everything again; what cannot be read stays as it was."""
    files: dict[Path, tuple[InferenceModel, ...]] = {}
    problems: list[str] = []
    for path in _manifests(project.paths):
        try:
            files[path] = read(path)
        except InvalidProject as problem:
            problems.append(str(problem))
            files[path] = project.files.get(path, ())
    if twice := list(_declared_twice(files)):
        return Project(project.paths, project.files, (*problems, *twice))
    return Project(project.paths, files, tuple(problems))


def read(path: Path) -> tuple[InferenceModel, ...]:
    """Reads one file; raises InvalidProject in the API server's words."""
    shown = shown_as(path)
    try:
        if path.stat().st_size > _FILE_BYTES:
            raise InvalidProject(f"{shown}: larger than {_FILE_BYTES >> 20} MiB", "Give manifests, not weights")
        return tuple(load_manifests(path.read_text(encoding="utf-8"), str(shown)))
    except InvalidManifest as problem:
        raise InvalidProject(str(problem)) from None
    except (OSError, UnicodeDecodeError) as problem:
        why = problem.strerror if isinstance(problem, OSError) else "not UTF-8 text"
        raise InvalidProject(f"{shown}: {why}", "Give the path of a manifest") from None


async def changes(project: Project) -> AsyncIterator[None]:
    """Yields when a manifest may have changed. Editors replace files, so their folders are watched."""
    from watchfiles import Change, awatch  # noqa: PLC0415  (only those who watch pay for it)

    folders = {path if path.is_dir() else path.parent for path in project.paths}
    explicit = {path for path in project.paths if not path.is_dir()}
    listed = tuple(path for path in project.paths if path.is_dir())

    def concerns(_: Change, name: str) -> bool:
        path = Path(name)
        return path in explicit or (path.parent in listed and path.suffix in _SUFFIXES)

    async for _ in awatch(*folders, watch_filter=concerns, debounce=200, step=50, recursive=False):
        yield


def shown_as(path: Path) -> Path:
    """Returns the path as a person at the prompt would write it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _manifests(paths: Iterable[Path]) -> list[Path]:
    found: dict[Path, None] = {}
    for path in paths:
        inside = sorted(one for one in path.iterdir() if one.suffix in _SUFFIXES) if path.is_dir() else [path]
        found |= dict.fromkeys(inside)
    return list(found)


def _declared_twice(files: dict[Path, tuple[InferenceModel, ...]]) -> Iterable[str]:
    owners: dict[Key, Path] = {}
    for path, models in files.items():
        for key in map(key_of, models):
            if key in owners:
                yield f"{shown_as(path)}: InferenceModel {key} is declared in {shown_as(owners[key])} too. Keep one of them."
            owners[key] = path
