"""The runtime's container: its arguments, environment, resources and probes. `modelyard up` starts a process from the same."""

from typing import Any

from modelyard.api import quantities
from modelyard.api.durations import render
from modelyard.api.inference_model import InferenceModel, InferenceModelSpec
from modelyard.api.names import HTTP_PORT, METRICS_PORT
from modelyard.controller.builders.volumes import CACHE_DIR, TOKEN_FILE, bucket_variables, local_source, mounts, takes_token
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


def arguments(model: InferenceModel) -> list[str]:
    """Returns the flags of `modelyard-runtime serve`; fields that are not set leave the runtime's own default in force."""
    spec, limits = model.spec, model.spec.limits
    flags: list[tuple[str, object]] = [
        ("model", local_source(spec.model.source)),
        ("served-model-name", model.metadata.name),
        *(("capability", capability.value) for capability in spec.model.capabilities),
        ("dtype", spec.engine.dtype),
        ("max-model-length", spec.engine.max_model_length),
        ("max-concurrent-sequences", spec.engine.max_concurrent_sequences),
        ("max-concurrency", limits.max_concurrency),
        ("max-queue", limits.max_queue),
        ("queue-timeout", render(limits.queue_timeout)),
        ("request-timeout", render(limits.request_timeout)),
        ("max-prompt-tokens", limits.max_prompt_tokens),
        ("max-new-tokens", limits.max_new_tokens),
        ("drain-timeout", render(spec.rollout.drain_timeout)),
        *_optional(spec),
    ]
    return [f"--{flag}={value}" for flag, value in flags if value is not None] + list(spec.engine.args)


def _optional(spec: InferenceModelSpec) -> list[tuple[str, object]]:
    """Returns the flags of what most models leave out."""
    engine, generation, warmup = spec.engine, spec.generation, spec.warmup
    flags: list[tuple[str, object]] = [("adapter", f"{adapter.name}={local_source(adapter.source)}") for adapter in engine.adapters]
    if engine.quantization != "none":
        flags.append(("quantization", engine.quantization))
        flags.append(("quantize-above", engine.quantize_above and int(quantities.parse(engine.quantize_above))))
    if spec.model.trust_remote_code:
        flags.append(("trust-remote-code", "true"))
    if generation is not None:
        flags += [
            ("temperature", generation.temperature),
            ("top-p", generation.top_p),
            ("top-k", generation.top_k),
            ("min-p", generation.min_p),
            ("repetition-penalty", generation.repetition_penalty),
            ("default-max-tokens", generation.max_tokens),
            ("generation-config", None if generation.config == "auto" else generation.config),
        ]
    if warmup is not None:
        flags += [("warmup", capability.value) for capability in warmup.capabilities]
        flags += [("warmup-skip", capability.value) for capability in warmup.skip]
        flags += [("warmup-steps", warmup.steps), ("warmup-batch", warmup.batch)]
        flags.append(("warmup-memory", warmup.memory and int(quantities.parse(warmup.memory))))
    return flags


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
