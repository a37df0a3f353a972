"""Which models a process has, by its flags and its catalogue: names, sources, and the settings that each has of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from modelyard_runtime.errors import ArgumentsInvalid
from modelyard_runtime.serving.catalogue import Entry, read
from modelyard_runtime.settings import ServeSettings, name_of
from modelyard_runtime.sources.source import known, parse

_NAMING = "give each model a name of its own: name=source, or `name` in the catalogue"


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model that may be asked for. ``settings`` are the process's with the model's own in their place; ``origin`` says who named it.

    ``preload``: loaded at start; ``pinned``: never unloaded to make room. ``own`` are the settings that were given for this model alone.
    """

    name: str
    settings: ServeSettings
    aliases: tuple[str, ...] = ()
    preload: bool = True
    pinned: bool = False
    origin: str = field(default="flags", compare=False)
    own: frozenset[str] = frozenset()

    @property
    def names(self) -> tuple[str, ...]:
        """All names that clients may use."""
        return (self.name, *self.aliases)


def specs_of(settings: ServeSettings) -> tuple[ModelSpec, ...]:
    """Returns the models of a process.

    Raises ArgumentsInvalid on two of one name, where there is none, and on a source that cannot be; WeightsNotFound on a builtin one.
    """
    specs = [*_of_flags(settings), *_of_catalogue(settings)]
    if len(specs) == 1:  # what the flags say is for it alone
        specs = [replace(specs[0], own=specs[0].own | settings.model_fields_set)]
    if not specs:
        raise ArgumentsInvalid("--model is required: give a source such as hf://org/name or builtin://tiny-chat, or a --catalogue")
    seen: dict[str, str] = {}
    for spec in specs:
        for name in spec.names:
            if name in seen:
                raise ArgumentsInvalid(f"two models are called {name!r}: {seen[name]} and {spec.settings.source}", _NAMING)
            seen[name] = spec.settings.source
    return tuple(specs)


def spec_of(entry: Entry, settings: ServeSettings, origin: str) -> ModelSpec:
    """Returns the model of a catalogue's entry. Raises ArgumentsInvalid on a source that cannot be."""
    parse(entry.source)
    name = entry.name or name_of(entry.source)
    more = {"model": (entry.source,), "served_model_name": name, "capability": entry.capabilities}
    own = entry.own()
    return ModelSpec(name, settings.model_copy(update=own | more), entry.aliases, entry.preload, entry.pinned, origin, frozenset(own))


def _of_flags(settings: ServeSettings) -> Iterator[ModelSpec]:
    named = [split_name(given) for given in settings.model]
    if settings.served_model_name and len(named) > 1 and [name for name, _ in named].count("") != 1:
        raise ArgumentsInvalid("--served-model-name is the name of one model, and there are several", _NAMING)
    for name, source in named:
        known(source)
        given = name if len(named) > 1 and name else settings.served_model_name or name
        own = {"model": (source,), "served_model_name": given or name_of(source)}
        spec = settings.model_copy(update=own)
        yield ModelSpec(spec.served_name, spec, preload=not settings.lazy)


def _of_catalogue(settings: ServeSettings) -> Iterator[ModelSpec]:
    if settings.catalogue is not None:
        yield from (spec_of(entry, settings, "catalogue") for entry in read(Path(settings.catalogue)))


def split_name(given: str) -> tuple[str, str]:
    """Returns (name, source) of ``name=source``; the name is empty where there is none. A source may hold = itself."""
    head, equals, rest = given.partition("=")
    return (head, rest) if equals and "://" not in head else ("", given)
