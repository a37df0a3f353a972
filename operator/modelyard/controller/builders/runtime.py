"""The runtime's container: its arguments, environment, resources and probes. `modelyard up` starts a process from the same."""

from typing import Any

from modelyard.api.inference_model import InferenceModel, InferenceModelSpec
from modelyard.api.names import HTTP_PORT, METRICS_PORT
from modelyard.controller.builders.arguments import arguments
from modelyard.controller.builders.volumes import CACHE_DIR, TOKEN_FILE, bucket_variables, mounts, takes_token
from modelyard.controller.types import BuildSettings, Manifest

CONTAINER = "runtime"


def container(model: InferenceModel, settings: BuildSettings) -> Manifest:
    """Returns the pod's one container, within the restricted Pod Security Standard."""
    spec = model.spec
    return {
        "name": CONTAINER,
        "image": spec.engine.image or settings.runtime_image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": ["modelyard-runtime", "serve"],
        "args": arguments(model),
        "env": environment(spec, settings),
        "ports": [
            {"name": "http", "containerPort": HTTP_PORT, "protocol": "TCP"},
            {"name": "metrics", "containerPort": METRICS_PORT, "protocol": "TCP"},
        ],
        "resources": resources(spec),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts(spec),
        **_probes(),
    }


def environment(spec: InferenceModelSpec, settings: BuildSettings) -> list[dict[str, Any]]:
    """Returns the variables, one per name; the model's own come last and win.

    The root filesystem is read-only, so that what libraries write goes to the cache's and the temporary volume.
    """
    variables = {"HOME": CACHE_DIR, "TMPDIR": "/tmp", "MODELYARD_CACHE_DIR": CACHE_DIR}  # noqa: S108 (a volume of the pod's own)
    if takes_token(spec):
        variables["MODELYARD_TOKEN_FILE"] = TOKEN_FILE
    if not spec.resources.gpu.count:
        variables["NVIDIA_VISIBLE_DEVICES"] = "void"  # else a GPU node's container runtime may show all its devices
    variables |= dict(settings.extra_env)
    variables |= {variable.name: variable.value for variable in spec.engine.env}
    secret = [variable for variable in bucket_variables(spec) if variable["name"] not in variables]
    return [{"name": name, "value": value} for name, value in variables.items()] + secret


def resources(spec: InferenceModelSpec) -> dict[str, dict[str, str]]:
    """Returns requests and limits: devices and memory are reserved in full, the processor is a share and has no limit."""
    wanted = spec.resources
    limits = {wanted.gpu.resource: str(wanted.gpu.count)} if wanted.gpu.count else {}
    if wanted.memory:
        limits["memory"] = wanted.memory
    requests = {"cpu": wanted.cpu or "1", **limits}
    return {"requests": requests, "limits": limits} if limits else {"requests": requests}


def _probes() -> dict[str, Any]:
    """Returns the probes. A loading runtime is alive, so that only readiness waits for the model."""
    health = {"path": "/health", "port": "http", "scheme": "HTTP"}
    return {
        "startupProbe": {"httpGet": health, "periodSeconds": 2, "timeoutSeconds": 2, "failureThreshold": 300},
        "livenessProbe": {"httpGet": health, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6},
        "readinessProbe": {"httpGet": health | {"path": "/ready"}, "periodSeconds": 2, "timeoutSeconds": 2, "failureThreshold": 2},
    }
