"""From a planned pod to a command of this machine. Pure.

Command, arguments and environment are the pod's. What only makes sense inside a container is exchanged: addresses, paths of
volumes, and devices, which the environment shows instead of the container runtime.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelyard.api.names import ENV_PREFIX
from modelyard.api.reasons import Reason, Termination
from modelyard.controller.types import Manifest

_RUNTIME = "modelyard-runtime"
_MODULE = "modelyard_runtime.main"
#: The user's own settings that reach a runtime; other variables of Modelyard are meant for `modelyard up` itself.
_PASSED_ON = {f"{ENV_PREFIX}{name}" for name in ("MODEL_DIR", "LOG_LEVEL", "TOKEN_FILE")}
_GOOGLE = "GOOGLE_APPLICATION_CREDENTIALS"
#: Variables that the builders point into the container's filesystem; a user's own values of them are left alone.
_INSIDE = {"HOME", "TMPDIR", f"{ENV_PREFIX}CACHE_DIR", f"{ENV_PREFIX}TOKEN_FILE", _GOOGLE}
#: The endpoint is taken from the gateway before the process is asked to end, so that hardly anything can still be on its way.
_SETTLE_TIME = "300ms"


@dataclass(frozen=True, slots=True)
class Mounts:
    """What stands for a cluster's volumes: folders for PersistentVolumeClaims, files for Secrets, by name."""

    claims: Mapping[str, Path] = field(default_factory=dict)
    secrets: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a process runs: its address and ports, its devices, and the files it may write."""

    host: str
    port: int
    metrics_port: int
    cache_dir: Path
    termination_log: Path
    devices: tuple[str, ...] = ()


def container(pod_spec: Manifest) -> Manifest:
    """Returns the runtime's container."""
    found: Manifest = next(one for one in pod_spec["containers"] if one["name"] == "runtime")
    return found


def devices_wanted(pod_spec: Manifest) -> dict[str, int]:
    """Returns the devices that the pod asks for, by resource name."""
    limits = container(pod_spec).get("resources", {}).get("limits", {})
    return {name: int(count) for name, count in limits.items() if "/" in name}


def obstacle(pod: str, pod_spec: Manifest, mounts: Mounts) -> Termination | None:
    """Returns why the pod's volumes cannot be had here, with what to do; None when they can."""
    for volume in pod_spec.get("volumes", ()):
        claim = _claim(volume)
        if claim and claim not in mounts.claims:
            remedy = f"Name a folder that stands for it (modelyard up --pvc {claim}=FOLDER), or use file:///path in spec.model.source."
            return Termination(Reason.WEIGHTS_NOT_FOUND, f"pod {pod}: no folder stands for the claim {claim}", remedy)
        secret = volume.get("secret", {}).get("secretName")
        if secret and secret not in mounts.secrets:
            remedy = f"Name a file with the token (modelyard up --secret {secret}=FILE), or remove spec.model.credentialsSecret."
            return Termination(Reason.UNAUTHORIZED, f"pod {pod}: no file stands for the Secret {secret}", remedy)
    return None


def command(pod_spec: Manifest, mounts: Mounts) -> list[str]:
    """Returns the process's command line. The runtime is the one that is installed beside this package."""
    planned = container(pod_spec)
    program, *rest = planned["command"]
    start = [sys.executable, "-m", _MODULE] if program == _RUNTIME else [program]
    return [*start, *rest, *(_relocate(argument, _paths(pod_spec, mounts)) for argument in planned.get("args", ()))]


def environment(pod_spec: Manifest, mounts: Mounts, place: Place, inherited: Mapping[str, str]) -> dict[str, str]:
    """Returns the process's environment: the user's, then the pod's, then what its place demands."""
    own = {name: value for name, value in inherited.items() if not name.startswith(ENV_PREFIX) or name in _PASSED_ON}
    # What a cluster takes out of a Secret by name (an object store's keys), the user's own environment has here.
    planned = {variable["name"]: variable["value"] for variable in container(pod_spec).get("env", ()) if "value" in variable}
    outside = {name: value for name, value in planned.items() if not _belongs_to_the_image(name, value, pod_spec)}
    forced = {
        "HOST": place.host,
        "PORT": str(place.port),
        "METRICS_PORT": str(place.metrics_port),
        "CACHE_DIR": str(place.cache_dir),
        "TERMINATION_LOG": str(place.termination_log),
        "SETTLE_TIME": _SETTLE_TIME,
    }
    if token := _token(pod_spec, mounts):
        forced["TOKEN_FILE"] = str(token)
        outside |= {_GOOGLE: str(token)} if _GOOGLE in planned else {}
    devices = {"CUDA_VISIBLE_DEVICES": ",".join(place.devices)}
    return own | {"PYTHONUNBUFFERED": "1"} | devices | outside | {f"{ENV_PREFIX}{name}": value for name, value in forced.items()}


def _belongs_to_the_image(name: str, value: str, pod_spec: Manifest) -> bool:
    """Returns whether a variable points into the container's filesystem, or speaks to the container runtime."""
    mounted = {mount["mountPath"] for mount in container(pod_spec).get("volumeMounts", ())}
    return name == "NVIDIA_VISIBLE_DEVICES" or (name in _INSIDE and bool(mounted & {value, str(Path(value).parent)}))


def _paths(pod_spec: Manifest, mounts: Mounts) -> dict[str, Path]:
    """Returns the folders that stand for mounted claims, by mount path."""
    claims: dict[str, str] = {volume["name"]: _claim(volume) for volume in pod_spec.get("volumes", ())}
    mounted: Sequence[dict[str, Any]] = container(pod_spec).get("volumeMounts", ())
    return {mount["mountPath"]: mounts.claims[claim] for mount in mounted if (claim := claims[mount["name"]]) in mounts.claims}


def _claim(volume: Manifest) -> str:
    name: str = volume.get("persistentVolumeClaim", {}).get("claimName", "")
    return name


def _relocate(argument: str, paths: Mapping[str, Path]) -> str:
    for inside, outside in paths.items():
        flag, found, path = f"{argument}/".partition(f"=file://{inside}/")
        if found and flag.startswith(("--model", "--adapter=")):
            return f"{flag}=file://{outside}/{path}".rstrip("/")
    return argument


def _token(pod_spec: Manifest, mounts: Mounts) -> Path | None:
    names = (volume.get("secret", {}).get("secretName") for volume in pod_spec.get("volumes", ()))
    return next((mounts.secrets[name] for name in names if name in mounts.secrets), None)
