"""Where a runtime reads and writes: its cache, temporary files, shared memory, the token of its source, and claims."""

from typing import Any

from modelyard.api.inference_model import InferenceModelSpec

CACHE_DIR = "/var/cache/modelyard"
TOKEN_DIR = "/var/run/secrets/modelyard"  # noqa: S105 (a path)
TOKEN_FILE = f"{TOKEN_DIR}/token"
CLAIMS_DIR = "/models"

_PVC = "pvc://"


def claim(source: str) -> str | None:
    """Returns the PersistentVolumeClaim that ``pvc://claim/path`` names, and None for any other source."""
    return source.removeprefix(_PVC).partition("/")[0] if source.startswith(_PVC) else None


def local_source(source: str) -> str:
    """Returns the source as the runtime sees it: a claim's path is a path in its filesystem."""
    return f"file://{CLAIMS_DIR}/{source.removeprefix(_PVC)}" if source.startswith(_PVC) else source


def shared_memory(spec: InferenceModelSpec) -> str | None:
    """Returns the size of /dev/shm: devices of one replica talk through it, and the default of 64 MB stops them."""
    return spec.resources.shared_memory or ("1Gi" if spec.resources.gpu.count > 1 else None)


def volumes(spec: InferenceModelSpec) -> list[dict[str, Any]]:
    """Returns the pod's volumes."""
    found: list[dict[str, Any]] = [{"name": "cache", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}]
    if size := shared_memory(spec):
        found.append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": size}})
    if secret := spec.model.credentials_secret:
        found.append({"name": "token", "secret": {"secretName": secret, "items": [{"key": "token", "path": "token"}]}})
    if name := claim(spec.model.source):
        found.append({"name": "weights", "persistentVolumeClaim": {"claimName": name, "readOnly": True}})
    return found


def mounts(spec: InferenceModelSpec) -> list[dict[str, Any]]:
    """Returns where the container sees the volumes."""
    found: list[dict[str, Any]] = [{"name": "cache", "mountPath": CACHE_DIR}, {"name": "tmp", "mountPath": "/tmp"}]  # noqa: S108
    if shared_memory(spec):
        found.append({"name": "shm", "mountPath": "/dev/shm"})  # noqa: S108
    if spec.model.credentials_secret:
        found.append({"name": "token", "mountPath": TOKEN_DIR, "readOnly": True})
    if name := claim(spec.model.source):
        found.append({"name": "weights", "mountPath": f"{CLAIMS_DIR}/{name}", "readOnly": True})
    return found
