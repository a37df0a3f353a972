"""Names that several parts share: API group, labels, ports, headers, environment variables."""

import hashlib

GROUP = "modelyard.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "InferenceModel"
PLURAL = "inferencemodels"

FIELD_MANAGER = "modelyard-operator"
LEASE = "modelyard-operator"

MODEL_LABEL = "modelyard.dev/model"
APPLIED_HASH_ANNOTATION = "modelyard.dev/applied-hash"

HTTP_PORT = 8000
METRICS_PORT = 9000
GATEWAY_PORT = 8080
GATEWAY_PRIVATE_PORT = 9090

#: Where the chart puts things, and where the models of a cluster are reached then.
NAMESPACE, MONITORING_NAMESPACE = "modelyard-system", "monitoring"
GATEWAY_URL = f"http://modelyard-gateway.{NAMESPACE}.svc:{GATEWAY_PORT}/v1"

REQUEST_ID_HEADER = "x-request-id"
MODEL_HEADER = "x-modelyard-model"
ENDPOINT_HEADER = "x-modelyard-endpoint"
#: The code of an error where the body's shape has no room for it.
ERROR_CODE_HEADER = "x-modelyard-error-code"

#: Where the paths of Ollama's API begin, and the version of it that is spoken: clients switch what they can do by it.
OLLAMA_PATH = "/api/"
OLLAMA_VERSION = "0.13.0"

ENV_PREFIX = "MODELYARD_"

_NAME_LIMIT = 63


def child_name(model: str, suffix: str = "") -> str:
    """Returns ``model`` + ``suffix``, cut with a hash where it would pass the 63 characters of a DNS label."""
    name = f"{model}{suffix}"
    if len(name) <= _NAME_LIMIT:
        return name
    digest = hashlib.sha256(model.encode()).hexdigest()[:8]
    keep = _NAME_LIMIT - len(suffix) - len(digest) - 1
    return f"{model[:keep].rstrip('-.')}-{digest}{suffix}"


def authority(host: str, port: int | str) -> str:
    """Returns host and port as URLs have them: an IPv6 address in brackets (RFC 3986, section 3.2.2)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def selector_labels(model: str) -> dict[str, str]:
    """Returns the labels that select a model's pods; they never change during the model's life."""
    return {"app.kubernetes.io/name": "modelyard-runtime", MODEL_LABEL: child_name(model)}


def child_labels(model: str, version: str) -> dict[str, str]:
    """Returns the labels of every object made for a model. Label values have 63 characters at most, as names do."""
    return {
        **selector_labels(model),
        "app.kubernetes.io/instance": child_name(model),
        "app.kubernetes.io/component": "runtime",
        "app.kubernetes.io/managed-by": "modelyard",
        "app.kubernetes.io/version": version,
    }
