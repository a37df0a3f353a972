"""How to reach and convince the API server: the pod's service account, or a kubeconfig.

In a pod three files and two variables say it all. Outside, the official client reads the kubeconfig, with its exec plugins and
OIDC refreshes; it is imported only there, as it would cost each gateway 20 MB.
"""

import asyncio
import os
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from modelyard.api.names import authority

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_FRESH_SECONDS = 60.0


class NoCluster(Exception):
    """No API server is configured: neither a service account nor a usable kubeconfig was found."""


@dataclass
class Credentials:
    """Where the API server is and what to show it. ``read`` returns the Authorization header's value, or None for client certificates.

    Tokens rotate (hourly for service accounts), so ``read`` is asked again after a minute, or at once with ``force``.
    """

    server: str
    tls: ssl.SSLContext | None
    read: Callable[[], str | None]
    proxy: str | None = None
    _value: str | None = field(default=None, init=False, repr=False)
    _until: float = field(default=0.0, init=False, repr=False)

    async def headers(self, *, force: bool = False) -> dict[str, str]:
        """Returns the headers that authenticate a request. An exec plugin may take its time, so reading happens in a thread."""
        if force or time.monotonic() >= self._until:
            self._value = await asyncio.to_thread(self.read)
            self._until = time.monotonic() + _FRESH_SECONDS
        return {"authorization": self._value} if self._value else {}


def find() -> Credentials:
    """Returns the pod's service account, else the kubeconfig's current context; raises NoCluster, saying what was looked for.

    An explicit ``KUBECONFIG`` wins, so that a pod can be pointed at another cluster.
    """
    host = os.environ.get("KUBERNETES_SERVICE_HOST")
    if host and not os.environ.get("KUBECONFIG"):
        return from_service_account(SERVICE_ACCOUNT, host, os.environ.get("KUBERNETES_SERVICE_PORT", "443"))
    return from_kubeconfig()


def from_service_account(folder: Path, host: str, port: str) -> Credentials:
    """Returns the credentials mounted into a pod; raises NoCluster when the token is not mounted."""
    token = folder / "token"
    if not token.is_file():
        raise NoCluster(f"no service account token at {token}: set automountServiceAccountToken on the pod")
    return Credentials(
        server=f"https://{authority(host, port)}",
        tls=ssl.create_default_context(cafile=str(folder / "ca.crt")),
        read=lambda: f"Bearer {token.read_text().strip()}",
    )


def from_kubeconfig(path: str | None = None) -> Credentials:
    """Returns the current context of a kubeconfig (``path``, ``$KUBECONFIG`` or ``~/.kube/config``); raises NoCluster."""
    from kubernetes.client import Configuration  # noqa: PLC0415  (only outside a cluster)
    from kubernetes.config import ConfigException, load_kube_config  # noqa: PLC0415

    found = Configuration()
    try:
        load_kube_config(config_file=path, client_configuration=found)
    except ConfigException as problem:
        raise NoCluster(f"no usable kubeconfig: {problem}; set KUBECONFIG to the path of one") from problem

    def read() -> str | None:
        value: str | None = found.get_api_key_with_prefix("authorization", alias="BearerToken")
        return value or (found.get_basic_auth_token() if found.username else None)

    return Credentials(server=found.host.rstrip("/"), tls=_tls(found), read=read, proxy=found.proxy or None)


def _tls(found: "object") -> ssl.SSLContext | None:
    """Returns the TLS settings of the official client's configuration; None for plain HTTP (`kubectl proxy`)."""
    settings = vars(found)
    if not str(getattr(found, "host", "")).startswith("https"):
        return None
    context = ssl.create_default_context(cafile=settings["ssl_ca_cert"])
    if settings["cert_file"]:
        context.load_cert_chain(settings["cert_file"], settings["key_file"])
    if not settings["verify_ssl"]:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
