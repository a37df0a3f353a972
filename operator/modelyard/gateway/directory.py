"""What can be asked for: the models, the names that lead to them, and the addresses that serve them.

A fact sheet without I/O, fed by `watch.py` or by `modelyard up`. Names are claimed in the order of creation: of two models that
claim one bare name or alias the older holds it, and ``namespace/name`` always leads to its own model.
"""

from __future__ import annotations

from collections.abc import Callable

from modelyard.api.errors import ModelNotFound
from modelyard.gateway.types import Endpoint, ModelRecord

_LISTED = 20
NO_ENDPOINTS: frozenset[Endpoint] = frozenset()


class Directory:
    """Models and endpoints by key (``namespace/name``)."""

    def __init__(self) -> None:
        self._records: dict[str, ModelRecord] = {}
        self._endpoints: dict[str, frozenset[Endpoint]] = {}
        self._names: dict[str, ModelRecord] | None = None
        self._listeners: list[Callable[[str], None]] = []

    def subscribe(self, listener: Callable[[str], None]) -> None:
        """Calls ``listener`` with the key of whatever changes from now on."""
        self._listeners.append(listener)

    def set_model(self, record: ModelRecord) -> None:
        """Adds a model, or replaces what was known of it."""
        if self._records.get(record.key) != record:
            self._records[record.key] = record
            self._names = None
            self._tell(record.key)

    def remove_model(self, key: str) -> None:
        """Forgets a model; its endpoints are forgotten with it."""
        self._endpoints.pop(key, None)
        if self._records.pop(key, None) is not None:
            self._names = None
            self._tell(key)

    def set_endpoints(self, key: str, endpoints: frozenset[Endpoint]) -> None:
        """Replaces the ready endpoints of a model, which may be unknown yet."""
        if self._endpoints.get(key, NO_ENDPOINTS) != endpoints:
            self._endpoints[key] = endpoints
            self._tell(key)
        if not endpoints:
            self._endpoints.pop(key, None)

    def record(self, key: str) -> ModelRecord | None:
        """Returns what is known of a model."""
        return self._records.get(key)

    def endpoints(self, key: str) -> frozenset[Endpoint]:
        """Returns a model's ready endpoints."""
        return self._endpoints.get(key, NO_ENDPOINTS)

    def resolve(self, name: str) -> ModelRecord:
        """Returns the model that a request's ``model`` means; raises ModelNotFound, listing what exists."""
        record = self.names().get(name)
        if record is None:
            raise ModelNotFound(f"The model '{name[:256]}' does not exist. {self._what_exists()}", param="model")
        return record

    def names(self) -> dict[str, ModelRecord]:
        """Returns every name and alias that resolves, with its model."""
        if self._names is None:
            self._names = _claim(self.models())
        return self._names

    def models(self) -> list[ModelRecord]:
        """Returns the models, oldest first."""
        return sorted(self._records.values(), key=lambda record: (record.created, record.key))

    def public_name(self, record: ModelRecord) -> str:
        """Returns the shortest name that leads to the model: its own where it holds that, else ``namespace/name``."""
        return record.name if self.names().get(record.name) is record else record.key

    def _what_exists(self) -> str:
        names = sorted(self.public_name(record) for record in self._records.values())
        more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
        return f"Available: {', '.join(names[:_LISTED])}{more}." if names else "No model is deployed."

    def _tell(self, key: str) -> None:
        for listener in self._listeners:
            listener(key)


def _claim(models: list[ModelRecord]) -> dict[str, ModelRecord]:
    names = {record.key: record for record in models}
    for record in models:
        for name in (record.name, *record.aliases):
            names.setdefault(name, record)
    for record in models:
        for name in (record.key, record.name, *record.aliases):
            if names[name] is record:
                names.update((adapter, record) for adapter in record.of_adapters(name) if adapter not in names)
    return names
