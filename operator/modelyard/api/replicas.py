"""How many replicas run, how they change, and what each takes on."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field

from modelyard.api.durations import Duration, between
from modelyard.api.engine import Engine
from modelyard.api.fields import Name, Part, UploadSize
from modelyard.api.markers import NotYet, Rule
from modelyard.api.model import Model


class ColdStart(Part):
    """What happens to requests that arrive while no replica is ready."""

    max_wait: Annotated[Duration, between("1s", "1h")] = Field(
        default=timedelta(minutes=10), description="Longest wait of a held request; then 503 with Retry-After."
    )
    max_queue: Annotated[int, Field(ge=0, le=10_000)] = Field(
        default=100, description="Requests held per gateway; one more gets 503 at once."
    )
    keepalive: Annotated[Duration, between("0s", "5m")] = Field(
        default=timedelta(seconds=15),
        description="Time between signs of life to a waiting streaming client: SSE comments, spaces to Ollama's. 0s sends none.",
    )


class Scaling(Part):
    """How many replicas run."""

    rules = (
        Rule(
            "!has(self.maxReplicas) || self.minReplicas <= self.maxReplicas", "must not be less than minReplicas", field_path=".maxReplicas"
        ),
    )

    min_replicas: Annotated[int, Field(ge=0, le=1000)] = Field(
        default=1, description="Fewest replicas; 0 stops the last one when idle, and a request wakes it."
    )
    max_replicas: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        default=None, description="Most replicas. minReplicas, at least 1, when left out."
    )
    target_concurrency: Annotated[int, Field(ge=1, le=10_000)] = Field(
        default=8, description="Requests in flight and queued that one replica is meant to carry."
    )
    scale_down_delay: Annotated[Duration, between("0s", "24h")] = Field(
        default=timedelta(minutes=5), description="How long demand must stay low before a replica is removed."
    )
    mode: Literal["Managed", "External"] = Field(
        default="Managed", description="External leaves the number of replicas to another autoscaler through /scale of the Deployment."
    )
    cold_start: ColdStart = Field(default=ColdStart(), description="Requests while no replica is ready.")


class Canary(Part):
    """A second variant that takes a share of the traffic."""

    weight: Annotated[int, Field(ge=0, le=100)] = Field(description="Percent of the requests.")
    model: Model | None = Field(default=None, description="The variant's model.")
    engine: Engine | None = Field(default=None, description="The variant's engine.")


class Rollout(Part):
    """How a change reaches the pods."""

    strategy: Literal["Auto", "Surge", "Replace"] = Field(
        default="Auto",
        description="Surge starts a new pod before it stops an old one; Replace stops first. Auto replaces where pods hold devices and "
        "surges elsewhere.",
    )
    drain_timeout: Annotated[Duration, between("0s", "1h")] = Field(
        default=timedelta(seconds=60), description="Longest time that a stopping pod may finish its requests in."
    )
    canary: Annotated[Canary | None, NotYet()] = Field(default=None, description="A second variant.")


class Limits(Part):
    """Bounds of one replica. Past them a request is refused with the reason, never dropped."""

    max_concurrency: Annotated[int, Field(ge=1, le=10_000)] | None = Field(default=None, description="Requests worked on at once.")
    max_queue: Annotated[int, Field(ge=0, le=100_000)] = Field(default=256, description="Requests that wait; one more gets 429.")
    queue_timeout: Annotated[Duration, between("1s", "1h")] = Field(
        default=timedelta(seconds=60), description="Longest wait before work begins; then 503."
    )
    request_timeout: Annotated[Duration, between("1s", "24h")] = Field(
        default=timedelta(minutes=10), description="Longest time of a request; then 504."
    )
    max_prompt_tokens: Annotated[int, Field(ge=1, le=10_000_000)] | None = Field(default=None, description="Longest prompt, in tokens.")
    max_new_tokens: Annotated[int, Field(ge=1, le=10_000_000)] | None = Field(default=None, description="Longest answer, in tokens.")
    max_choices: Annotated[int, Field(ge=1, le=128)] | None = Field(
        default=None, description="Largest `n` and `best_of` of a request; 16 when left out."
    )
    max_body_size: UploadSize | None = Field(
        default=None, description="Largest request body; then 413. 16Mi when left out. The gateway's bound of all bodies, 32Mi, holds too."
    )


class Access(Part):
    """Who may use the model."""

    tenants: Annotated[list[Name], Field(max_length=256)] = Field(default=[], description="Names of Tenants; all when empty.")
