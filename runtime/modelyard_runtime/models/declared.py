"""The pipeline class that a config.json names: code that comes with the weights, and takes text where the library takes tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: Tasks of pipelines that go on from a text with a text.
TEXT_TASKS = ("text-generation", "text2text-generation")


@dataclass(frozen=True, slots=True)
class Declared:
    """``impl`` is the class as ``module.Class`` of the folder; ``classes`` may be ones of the library, which load its model."""

    task: str
    impl: str
    classes: tuple[str, ...]

    @property
    def writes(self) -> bool:
        """Whether its task is to go on from a text."""
        return self.task in TEXT_TASKS


def declared(config: Mapping[str, Any]) -> Declared | None:
    """Returns what the ``custom_pipelines`` of a config.json name: a text task first, else the only one; None where that is none.

    The form is that of https://huggingface.co/docs/transformers/add_new_pipeline: by task an ``impl`` and the classes in ``pt``.
    """
    found = config.get("custom_pipelines")
    named = {task: entry for task, entry in found.items() if _is_entry(entry)} if isinstance(found, dict) else {}
    task = next((task for task in (*TEXT_TASKS, *named) if task in named), None)
    if task is None or (task not in TEXT_TASKS and len(named) > 1):
        return None
    return Declared(task, named[task]["impl"], (*_names(named[task].get("pt")), *_names(config.get("architectures"))))


def _names(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [name for name in values if isinstance(name, str)]


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("impl"), str)
