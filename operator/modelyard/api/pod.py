"""What a replica needs, and what its pod has besides."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from modelyard.api.fields import Bytes, Cores, DeviceResource, LabelKey, LabelValue, Name, NodeLabels, Part, PodAnnotations, PodLabels
from modelyard.api.markers import NotYet, Rule


class Gpu(Part):
    """Devices of one replica."""

    rules = (Rule("!has(self.product) || self.count > 0", "must be left out, or count be 1 or more", field_path=".product"),)

    count: Annotated[int, Field(ge=0, le=64)] = Field(default=0, description="Devices of one replica.")
    resource: DeviceResource = Field(default="nvidia.com/gpu", description="The device plugin's resource name.")
    product: Annotated[LabelValue, Field(min_length=1)] | None = Field(
        default=None, description="Only nodes whose label nvidia.com/gpu.product has this value."
    )


class Resources(Part):
    """What one replica needs."""

    rules = (
        Rule(
            "!has(self.memory) || !has(self.sharedMemory) || !isQuantity(string(self.memory)) || !isQuantity(string(self.sharedMemory)) || "
            "!quantity(string(self.sharedMemory)).isGreaterThan(quantity(string(self.memory)))",
            "must not exceed memory, which it counts against",
            field_path=".sharedMemory",
        ),
    )

    gpu: Gpu = Field(default=Gpu(), description="Devices of one replica.")
    cpu: Cores | None = Field(default=None, description="Processor request, such as 500m or 4. One core when left out.")
    memory: Bytes | None = Field(default=None, description="Memory request and limit, such as 16Gi. No limit when left out.")
    shared_memory: Bytes | None = Field(default=None, description="Size of /dev/shm, in memory. 1Gi when a replica has several devices.")
    profile: Annotated[Name | None, NotYet()] = Field(default=None, description="A named set of resources in the chart's values.")


class Toleration(Part):
    """A toleration, as in a pod."""

    rules = (
        Rule("self.operator != 'Exists' || !has(self.value)", "must be left out when operator is Exists", field_path=".value"),
        Rule(
            "self.operator != 'Equal' || has(self.key)",
            "is required when operator is Equal",
            field_path=".key",
            reason="FieldValueRequired",
        ),
        Rule(
            "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            "needs effect NoExecute",
            field_path=".tolerationSeconds",
        ),
    )

    key: LabelKey | None = Field(default=None, description="The taint's key. Every taint when left out with operator Exists.")
    operator: Literal["Exists", "Equal"] = Field(default="Equal", description="How the value is compared.")
    value: LabelValue | None = Field(default=None, description="The taint's value.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="The taint's effect; all when left out."
    )
    toleration_seconds: Annotated[int, Field(ge=0, le=10_000_000)] | None = Field(
        default=None, description="Seconds that a NoExecute taint is tolerated."
    )


class Pod(Part):
    """Overrides of the pod template."""

    labels: PodLabels = Field(default={}, description="Further labels.")
    annotations: PodAnnotations = Field(default={}, description="Further annotations.")
    node_selector: NodeLabels = Field(default={}, description="Labels that a node must have.")
    tolerations: Annotated[list[Toleration], Field(max_length=64)] = Field(default=[], description="Taints that are tolerated.")
    priority_class_name: Name | None = Field(default=None, description="The pods' PriorityClass.")
    runtime_class_name: Name | None = Field(default=None, description="The pods' RuntimeClass.")
    image_pull_secrets: Annotated[list[Name], Field(max_length=16)] = Field(default=[], description="Secrets for the image's registry.")
