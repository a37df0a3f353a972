"""What an administrator can set. Each field is a flag (`--max-body-bytes`) and an environment variable (`MODELYARD_MAX_BODY_BYTES`)."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from modelyard.api.durations import Duration
from modelyard.api.names import ENV_PREFIX, GATEWAY_PORT, GATEWAY_PRIVATE_PORT

Port = Annotated[int, Field(ge=0, le=65535)]
Bytes = Annotated[int, Field(ge=1024)]
MIB = 1 << 20


class GatewaySettings(BaseSettings):
    """Settings of a gateway process."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="ignore")

    # Where it listens and what it watches.
    host: str = Field(default="0.0.0.0", description="Address of both ports.")
    port: Port = Field(default=GATEWAY_PORT, description="Public port; 0 takes a free one.")
    private_port: Port = Field(
        default=GATEWAY_PRIVATE_PORT, description="Port of /metrics, /healthz, /readyz and /demand; 0 takes a free one."
    )
    watch_namespace: str = Field(default="", description="Serve the models of this namespace; all when empty.")

    # Sizes.
    max_header_bytes: Bytes = Field(default=32 * 1024, description="Largest head of a request; then 431.")
    max_body_bytes: Bytes = Field(default=32 * MIB, description="Largest body of a request; then 413.")
    max_buffered_bytes: Bytes = Field(default=256 * MIB, description="Bodies in memory, over all requests; then 503.")
    max_held_bytes: Bytes = Field(default=128 * MIB, description="Bodies of requests that wait for a replica; then 503.")
    max_connections: Annotated[int, Field(ge=1)] = Field(default=10_000, description="Client connections; then 503.")

    # Clients that are slow.
    header_timeout: Duration = Field(default=timedelta(seconds=10), description="Longest time a request's head may take; then 408.")
    body_timeout: Duration = Field(default=timedelta(seconds=120), description="Longest time a request's body may take; then 408.")
    idle_timeout: Duration = Field(default=timedelta(seconds=75), description="An idle client connection is closed after this.")
    stall_timeout: Duration = Field(
        default=timedelta(seconds=60), description="A client that reads nothing of its answer for this long is cut off."
    )

    # Replicas.
    connect_timeout: Duration = Field(default=timedelta(seconds=2), description="Longest time to connect to a replica.")
    upstream_idle_timeout: Duration = Field(
        default=timedelta(seconds=4), description="An idle connection to a replica is closed after this; uvicorn closes after 5 s."
    )
    busy_poll_microseconds: Annotated[int, Field(ge=0, le=1000)] = Field(
        default=200,
        description="While requests come and end less than this apart on average, the core is kept awake for the next one, for as long at "
        "most. 0 never polls; neither does a gateway with a CPU limit.",
    )

    # Shutdown.
    settle_time: Duration = Field(
        default=timedelta(seconds=5),
        description="Time after SIGTERM during which requests are still accepted, until no load balancer sends more.",
    )
    drain_timeout: Duration = Field(
        default=timedelta(minutes=10), description="Longest time that running requests may take to end after that."
    )

    # Logs.
    access_log: bool = Field(default=True, description="One line of JSON for each request, on standard output.")
    debug_headers: bool = Field(default=False, description="Name the replica that answered in x-modelyard-endpoint.")
