"""What the tests say to a cluster: kubectl, helm, models by their manifest, and the gateway's address."""

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).resolve().parents[1]
CHART = ROOT / "charts" / "modelyard"
SYSTEM = "modelyard-system"
RELEASE = "modelyard"
#: Namespaces that tests made, so that an aborted run's are found again.
TEST_LABEL = "modelyard.dev/e2e"
RESTRICTED = "pod-security.kubernetes.io/enforce=restricted"

Manifest = dict[str, Any]
T = TypeVar("T")


class CommandFailed(AssertionError):
    """A command ended with an error; its output is the message."""


def run(*command: str, stdin: str | None = None, timeout: float = 180) -> str:
    """Runs a command and returns its output; raises CommandFailed."""
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout, check=False)
    if done.returncode:
        raise CommandFailed(f"{' '.join(command)}\n{done.stdout}{done.stderr}".strip())
    return done.stdout


def kubectl(*words: str, stdin: str | None = None, timeout: float = 180) -> str:
    """Runs kubectl with the cluster that KUBECONFIG names."""
    return run("kubectl", *words, stdin=stdin, timeout=timeout)


def get(*words: str) -> Manifest:
    """Returns an object, or a list of them, as kubectl prints it in JSON."""
    manifest: Manifest = json.loads(kubectl("get", *words, "-o", "json"))
    return manifest


def exists(*words: str) -> bool:
    """Returns whether any such object is there."""
    return bool(kubectl("get", *words, "--ignore-not-found", "-o", "name").strip())


def apply(*manifests: Manifest) -> None:
    """Applies manifests as a user does."""
    kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(manifests)}))


def eventually(look: Callable[[], T], *, seconds: float, every: float = 0.3) -> T:
    """Returns the first true result of ``look``; an AssertionError of its own, or its last result, tells what was missing."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            result, failure = look(), None
        except AssertionError as error:
            failure = error
        if failure is None and result:
            return result
        if time.monotonic() > deadline:
            raise failure or AssertionError(f"not within {seconds:.0f} s; last seen: {result!r}")
        time.sleep(every)


class Model:
    """One InferenceModel in a namespace of a test's own."""

    def __init__(self, namespace: str, name: str, spec: Manifest):
        self.namespace, self.name, self.spec = namespace, name, spec

    @property
    def manifest(self) -> Manifest:
        """The manifest, as a user writes it."""
        metadata = {"name": self.name, "namespace": self.namespace}
        return {"apiVersion": "modelyard.dev/v1alpha1", "kind": "InferenceModel", "metadata": metadata, "spec": self.spec}

    @property
    def key(self) -> str:
        """The name that clients use where a bare one may not be unique."""
        return f"{self.namespace}/{self.name}"

    def apply(self, spec: Manifest | None = None) -> None:
        """Applies the spec, or a new one."""
        self.spec = spec or self.spec
        apply(self.manifest)

    def get(self) -> Manifest:
        """Returns the live object."""
        return get("-n", self.namespace, "inferencemodel", self.name)

    def pods(self) -> list[Manifest]:
        """Returns its pods that are not stopping."""
        listed = get("-n", self.namespace, "pods", "-l", f"modelyard.dev/model={self.name}")["items"]
        return [pod for pod in listed if "deletionTimestamp" not in pod["metadata"]]

    def condition(self, name: str = "Ready") -> Manifest:
        """Returns a condition, empty when it is not there."""
        conditions = self.get().get("status", {}).get("conditions", [])
        return next((condition for condition in conditions if condition["type"] == name), {})

    def wait_ready(self, seconds: float = 120) -> None:
        """Waits as a user does; tells the whole condition and the pods when it takes too long."""
        try:
            kubectl(
                "-n", self.namespace, "wait", "--for=condition=Ready", f"im/{self.name}", f"--timeout={seconds:.0f}s", timeout=seconds + 30
            )
        except CommandFailed as failure:
            pods = kubectl("-n", self.namespace, "get", "pods", "-o", "wide")
            raise CommandFailed(f"{failure}\n{json.dumps(self.condition(), indent=1)}\n{pods}") from None

    def wait_reason(self, reason: str, seconds: float = 90) -> Manifest:
        """Waits until Ready has this reason and returns the condition."""

        def reached() -> Manifest:
            condition = self.condition()
            assert condition.get("reason") == reason, f"expected {reason}, and the condition is {condition}"
            return condition

        return eventually(reached, seconds=seconds)


def install() -> None:
    """Installs the chart with the images under test, and waits until it runs."""
    images = [f"operator.image={os.environ.get('OPERATOR_IMAGE', 'modelyard-operator:dev')}"]
    images.append(f"runtime.image={os.environ.get('RUNTIME_IMAGE', 'modelyard-runtime:dev')}")
    # The namespace is labelled first: nothing of ours may need more than the restricted standard.
    if not exists("namespace", SYSTEM):
        kubectl("create", "namespace", SYSTEM)
    kubectl("label", "namespace", SYSTEM, RESTRICTED, f"{TEST_LABEL}=true", "--overwrite")
    # Definitions may be there already: kept from an earlier release, or applied by tests that need no operator.
    command = ["helm", "upgrade", "--install", RELEASE, str(CHART), "-n", SYSTEM, "--take-ownership", "--wait", "--timeout", "120s"]
    run(*command, "--set", ",".join(images))


def uninstall() -> None:
    """Uninstalls the chart if it is there."""
    if run("helm", "list", "-n", SYSTEM, "-q", "-f", f"^{RELEASE}$").strip():
        run("helm", "uninstall", RELEASE, "-n", SYSTEM, "--wait", "--timeout", "120s")


@contextmanager
def gateway_url() -> Iterator[str]:
    """Yields the gateway's base URL without /v1: the Service's address where this machine reaches it, else a forwarded port."""
    address = get("-n", SYSTEM, "service", "modelyard-gateway")["spec"]["clusterIP"]
    if _reachable(address, 80):
        yield f"http://{address}"
        return
    port = _free_port()
    command = [shutil.which("kubectl") or "kubectl", "-n", SYSTEM, "port-forward", "service/modelyard-gateway", f"{port}:80"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as forward:
        try:
            eventually(lambda: _reachable("127.0.0.1", port), seconds=30)
            yield f"http://127.0.0.1:{port}"
        finally:
            forward.terminate()


def _reachable(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=2):
            return True
    except OSError:
        return False


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port
