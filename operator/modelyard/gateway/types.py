"""The values that feed the gateway, whether a Kubernetes watch or `modelyard up` provides them."""

from dataclasses import dataclass
from typing import NamedTuple


class Endpoint(NamedTuple):
    """An address that serves a model."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """What the gateway knows of an InferenceModel, from the resource alone (never from pods): a restart turns no 503 into 404.

    ``key`` is ``namespace/name``. Each of ``adapters`` is routed to as ``name:adapter``. ``blocked`` holds the cause and the remedy when
    no replica can start, and is None otherwise.
    Durations are in seconds; ``created`` orders models that claim one name (RFC 3339).
    """

    key: str
    aliases: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()
    created: str = ""
    capabilities: tuple[str, ...] = ()
    blocked: str | None = None
    max_wait: float = 600.0
    max_queue: int = 100
    keepalive: float = 15.0
    request_timeout: float = 600.0

    @property
    def name(self) -> str:
        """The name without its namespace."""
        return self.key.partition("/")[2]

    def of_adapters(self, name: str) -> list[str]:
        """Returns the names of the adapters under a name of the model."""
        return [f"{name}:{adapter}" for adapter in self.adapters]
