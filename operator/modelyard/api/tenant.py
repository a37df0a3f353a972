"""The Tenant resource: who may use which models, and how much. Refused whole until the gateway enforces it.

A Tenant that was accepted and ignored would leave the gateway open to everybody while its author believes it closed.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from modelyard.api.fields import Name, Part
from modelyard.api.markers import Rule
from modelyard.api.status import Metadata

REFUSED = Rule(
    "false", "Tenant is not supported yet: delete it, and restrict access to the gateway by network", reason="FieldValueForbidden"
)


class ApiKey(Part):
    """An API key, kept in a Secret."""

    secret: Name = Field(description="A Secret in the Tenant's namespace.")
    key: Annotated[str, Field(min_length=1, max_length=253)] = Field(
        default="key", description="The entry of the Secret that holds the key."
    )


class TenantSpec(Part):
    """What a tenant may do."""

    api_keys: Annotated[list[ApiKey], Field(min_length=1, max_length=64)] = Field(
        description="Keys by which clients show that they belong to the tenant. Only hashes of them are kept in memory."
    )
    models: Annotated[list[Annotated[str, Field(min_length=1, max_length=253)]], Field(max_length=256)] = Field(
        default=[], description="Names of the models that may be used; all when empty."
    )
    requests_per_minute: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        default=None, description="Most requests a minute; unbounded when left out."
    )
    tokens_per_minute: Annotated[int, Field(ge=1, le=1_000_000_000)] | None = Field(
        default=None, description="Most tokens a minute, prompts and answers together; unbounded when left out."
    )
    concurrent_requests: Annotated[int, Field(ge=1, le=100_000)] | None = Field(
        default=None, description="Most requests at once; unbounded when left out."
    )
    weight: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=1, description="Share of a busy gateway, relative to other tenants' weights."
    )


class Tenant(BaseModel):
    """A group of clients with keys and limits of its own."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)

    api_version: Literal["modelyard.dev/v1alpha1"] = "modelyard.dev/v1alpha1"
    kind: Literal["Tenant"] = "Tenant"
    metadata: Metadata
    spec: TenantSpec
