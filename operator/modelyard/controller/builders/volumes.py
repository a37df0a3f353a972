"""Where a runtime reads and writes: its cache, temporary files, shared memory, the token of its source, and claims."""

from typing import Any

from modelyard.api.inference_model import InferenceModelSpec

CACHE_DIR = "/var/cache/modelyard"
TOKEN_DIR = "/var/run/secrets/modelyard"  # noqa: S105 (a path)
TOKEN_FILE = f"{TOKEN_DIR}/token"
CLAIMS_DIR = "/models"

_PVC = "pvc://"
_GOOGLE_KEY = "credentials.json"
_AMAZON_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_ENDPOINT_URL")


def claim(source: str) -> str | None:
    """Returns the PersistentVolumeClaim that ``pvc://claim/path`` names, and None for any other source."""
    return source.removeprefix(_PVC).partition("/")[0] if source.startswith(_PVC) else None


def claims(spec: InferenceModelSpec) -> dict[str, str]:
    """Returns the claims of the model and its adapters, by the names of their volumes."""
    sources = (spec.model.source, *(adapter.source for adapter in spec.engine.adapters))
    found = dict.fromkeys(name for name in map(claim, sources) if name)
    return {f"weights-{index}" if index else "weights": name for index, name in enumerate(found)}


def bucket_variables(spec: InferenceModelSpec) -> list[dict[str, Any]]:
    """Returns the variables by which an object store's own client finds its credentials; each is optional in the Secret."""
    secret = spec.model.credentials_secret
    if not secret:
        return []
    if spec.model.source.startswith("gs://"):
        return [{"name": "GOOGLE_APPLICATION_CREDENTIALS", "value": f"{TOKEN_DIR}/{_GOOGLE_KEY}"}]
    names = _AMAZON_KEYS if spec.model.source.startswith("s3://") else ()
    return [{"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": name, "optional": True}}} for name in names]


def takes_token(spec: InferenceModelSpec) -> bool:
    """Whether the source's credentials are a token in a file."""
    return bool(spec.model.credentials_secret) and not spec.model.source.startswith(("s3://", "gs://"))


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
    if key := _secret_file(spec):
        secret = {"secretName": spec.model.credentials_secret, "items": [{"key": key, "path": key}]}
        found.append({"name": "token", "secret": secret})
    found += [{"name": volume, "persistentVolumeClaim": {"claimName": name, "readOnly": True}} for volume, name in claims(spec).items()]
    return found


def mounts(spec: InferenceModelSpec) -> list[dict[str, Any]]:
    """Returns where the container sees the volumes."""
    found: list[dict[str, Any]] = [{"name": "cache", "mountPath": CACHE_DIR}, {"name": "tmp", "mountPath": "/tmp"}]  # noqa: S108
    if shared_memory(spec):
        found.append({"name": "shm", "mountPath": "/dev/shm"})  # noqa: S108
    if _secret_file(spec):
        found.append({"name": "token", "mountPath": TOKEN_DIR, "readOnly": True})
    found += [{"name": volume, "mountPath": f"{CLAIMS_DIR}/{name}", "readOnly": True} for volume, name in claims(spec).items()]
    return found


def _secret_file(spec: InferenceModelSpec) -> str | None:
    """Returns the key of the credentials' Secret that is mounted as a file."""
    if takes_token(spec):
        return "token"
    return _GOOGLE_KEY if spec.model.credentials_secret and spec.model.source.startswith("gs://") else None
