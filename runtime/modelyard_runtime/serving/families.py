"""The families of models: what each is asked for, how it is recognised, and the module that loads and serves it.

A module of the table has two functions. ``load`` runs on the loader's thread, takes as long as it takes, and is the first to import
PyTorch; ``serve`` runs on the event loop and returns at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

from modelyard_runtime.child import start_early
from modelyard_runtime.collecting import importing
from modelyard_runtime.loads import Load
from modelyard_runtime.metrics import Metrics
from modelyard_runtime.progress import Report
from modelyard_runtime.serving.limiter import Gate, Limiter, Limiters
from modelyard_runtime.serving.warmup import Way
from modelyard_runtime.settings import ServeSettings


class Service(Protocol):
    """A loaded model behind its limiter, as the endpoints of its family use it. Used from one event loop."""

    @property
    def limiter(self) -> Gate:
        """What requests pass before they are worked on."""
        ...

    @property
    def max_length(self) -> int:
        """Longest prompt plus answer, or longest text, in tokens; 0 where tokens do not count."""
        ...

    def load(self) -> Load:
        """Returns what is going on."""
        ...

    def describe(self) -> dict[str, Any]:
        """Returns what ``/v1/models`` adds about the model."""
        ...

    def ways(self, capability: str) -> Sequence[Way]:
        """Returns the ways that requests for a capability take through the model, from small to large, for warm-up to run."""
        ...

    async def stop(self) -> None:
        """Ends its threads and lets its memory go; nobody uses it any more."""
        ...


@dataclass(frozen=True, slots=True)
class Context:
    """What a service is made from besides the loaded model. ``on_death`` is told why an engine cannot go on."""

    settings: ServeSettings
    metrics: Metrics
    capabilities: tuple[str, ...]
    on_death: Callable[[Exception], None]

    def limiter(self, default_concurrency: int, places: Limiter | None = None) -> Limiter:
        """Returns a limiter within the settings' bounds."""
        settings = self.settings
        return Limiter(
            concurrency=settings.max_concurrency or default_concurrency,
            max_queue=settings.max_queue,
            queue_timeout=settings.queue_timeout.total_seconds(),
            places=places,
        )

    def limiters(self, default_concurrency: int, places: Limiter | None = None) -> Limiters:
        """Returns a limiter for each capability, each within the settings' bounds; requests of all wait for ``places`` where there are."""
        return Limiters({capability: self.limiter(default_concurrency, places) for capability in self.capabilities})

    def admitted(self, concurrency: int) -> int:
        """Returns how many requests the capabilities' limiters may let in, to work and to wait: so many find room to be read first."""
        return (self.settings.max_queue + (self.settings.max_concurrency or concurrency)) * len(self.capabilities)

    def places(self, sequences: int) -> Limiter:
        """Returns what the limiters of several capabilities share: the sequences that an engine computes at once.

        Its queue holds what those limiters let work, so that it is never full; who comes first is first, whatever capability it asks for.
        """
        concurrency = max(sequences, self.settings.max_concurrency or 0)
        timeout = self.settings.queue_timeout.total_seconds()
        return Limiter(concurrency=concurrency, max_queue=concurrency * len(self.capabilities), queue_timeout=timeout)


class FamilyModule(Protocol):
    """What a module of the table offers."""

    def load(self, folder: Path, settings: ServeSettings, capabilities: tuple[str, ...], report: Report) -> Any:
        """Loads a folder. Raises RuntimeFailed, or Stopped out of ``report``."""
        ...

    def serve(self, loaded: Any, context: Context) -> Service:
        """Makes the service of what `load` returned. Raises RuntimeFailed."""
        ...


@dataclass(frozen=True, slots=True)
class Family:
    """``capabilities`` that one model may have together; ``module`` is imported when a model of the family is loaded.

    ``processes`` are, by capability, those whose start takes a while, as the modules that they run.
    """

    name: str
    capabilities: frozenset[str]
    module: str
    processes: Mapping[str, str] = field(default_factory=dict)

    def implementation(self, capabilities: Sequence[str]) -> FamilyModule:
        """Imports the module, while the processes that a model with such capabilities will ask start on other cores."""
        for capability in capabilities:
            if capability in self.processes:
                start_early(self.processes[capability])
        with importing():
            return cast(FamilyModule, import_module(self.module))


FAMILIES = (
    Family(
        "generation",
        frozenset({"chat", "completions", "vision"}),
        "modelyard_runtime.serving.generation",
        {"chat": "modelyard_runtime.models.template_worker"},
    ),
    Family("embeddings", frozenset({"embeddings", "rerank"}), "modelyard_runtime.serving.embeddings"),
    Family("ranking", frozenset({"rerank", "classify"}), "modelyard_runtime.serving.ranking"),
    Family("transcription", frozenset({"transcription"}), "modelyard_runtime.serving.transcription"),
)


def family_of(capabilities: tuple[str, ...]) -> Family | None:
    """Returns the family that has all of the capabilities, or None."""
    return next((family for family in FAMILIES if family.capabilities >= set(capabilities)), None)
