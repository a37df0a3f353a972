"""The operator's settings: flags, or environment variables `MODELYARD_<FLAG>`; parsed once, a bad value is fatal and named."""

import socket
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from modelyard import __version__
from modelyard.api.names import ENV_PREFIX, GATEWAY_URL, LEASE, MONITORING_NAMESPACE, NAMESPACE
from modelyard.controller.types import BuildSettings


class OperatorSettings(BaseSettings):
    """Settings of the operator process."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="ignore")

    # What it manages.
    watch_namespace: str = Field(default="", description="Namespace whose models are managed; all when empty.")
    namespace: str = Field(default=NAMESPACE, min_length=1, description="Namespace of the operator itself, where its Lease is.")
    runtime_image: str = Field(default="modelyard-runtime:dev", min_length=1, description="Image of models that name none.")
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field(
        default="IfNotPresent", description="Pull policy of runtime pods."
    )

    # The gateway and who else reaches the models.
    gateway_namespace: str = Field(default=NAMESPACE, min_length=1, description="Namespace of the gateways.")
    gateway_service: str = Field(
        default="modelyard-gateway-private",
        min_length=1,
        description="Headless Service of the gateways' private port, which tells the demand.",
    )
    gateway_url: str = Field(
        default=GATEWAY_URL,
        min_length=1,
        description="OpenAI base URL written into status.url.",
    )
    monitoring_namespace: str = Field(
        default=MONITORING_NAMESPACE, min_length=1, description="Namespace that may scrape the runtimes' metrics."
    )

    # The process.
    host: str = Field(default="0.0.0.0", description="Address of the probes and metrics.")
    port: int = Field(default=8080, ge=0, le=65535, description="Port of /metrics, /healthz and /readyz; 0 takes a free one.")
    workers: int = Field(default=32, ge=1, le=256, description="Models reconciled at once.")
    lease_name: str = Field(default=LEASE, min_length=1, description="Lease that elects the operator which writes.")
    lease_duration: float = Field(default=15.0, ge=1.0, le=300.0, description="Seconds after which a silent leader is replaced.")
    identity: str = Field(default_factory=socket.gethostname, min_length=1, description="This process's name in the Lease; the pod's name.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Least severe level logged.")

    def build(self) -> BuildSettings:
        """Returns what the builders need."""
        return BuildSettings(
            runtime_image=self.runtime_image,
            image_pull_policy=self.image_pull_policy,
            version=__version__,
            gateway_namespace=self.gateway_namespace,
            monitoring_namespace=self.monitoring_namespace,
            gateway_url=self.gateway_url,
        )
