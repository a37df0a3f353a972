"""What the parts may do, and what runs inside the images."""

import subprocess

import pytest
from conftest import MakeModel
from harness import SYSTEM, exists, get, install, uninstall

OPERATOR, GATEWAY = (f"system:serviceaccount:{SYSTEM}:modelyard-{part}" for part in ("operator", "gateway"))

ALLOWED = [
    (OPERATOR, "patch", "deployments.apps", "anywhere"),
    (OPERATOR, "patch", "inferencemodels.modelyard.dev --subresource=status", "anywhere"),
    (OPERATOR, "update", "leases.coordination.k8s.io/modelyard-operator", SYSTEM),
    (GATEWAY, "watch", "inferencemodels.modelyard.dev", "anywhere"),
    (GATEWAY, "watch", "endpointslices.discovery.k8s.io", "anywhere"),
]
REFUSED = [
    *((who, verb, "secrets", where) for who in (OPERATOR, GATEWAY) for verb in ("get", "list", "watch") for where in (SYSTEM, "anywhere")),
    *(
        (who, "create", resource, "anywhere")
        for who in (OPERATOR, GATEWAY)
        for resource in ("pods", "pods --subresource=exec", "pods --subresource=attach", "pods --subresource=portforward")
    ),
    *(
        (who, "create", resource, "anywhere")
        for who in (OPERATOR, GATEWAY)
        for resource in ("rolebindings.rbac.authorization.k8s.io", "serviceaccounts --subresource=token")
    ),
    (OPERATOR, "patch", "inferencemodels.modelyard.dev", "anywhere"),
    (OPERATOR, "delete", "inferencemodels.modelyard.dev", "anywhere"),
    (OPERATOR, "update", "leases.coordination.k8s.io", "anywhere"),
    (OPERATOR, "list", "configmaps", "anywhere"),
    (OPERATOR, "patch", "nodes", "anywhere"),
    (GATEWAY, "patch", "inferencemodels.modelyard.dev --subresource=status", "anywhere"),
    (GATEWAY, "list", "pods", "anywhere"),
]


@pytest.mark.parametrize(("who", "verb", "resource", "where"), ALLOWED)
def test_rights_that_are_needed(release: None, who: str, verb: str, resource: str, where: str) -> None:
    assert _may(who, verb, resource, where)


@pytest.mark.parametrize(("who", "verb", "resource", "where"), REFUSED)
def test_rights_that_nobody_has(release: None, who: str, verb: str, resource: str, where: str) -> None:
    assert not _may(who, verb, resource, where)


def test_all_pods_run_under_the_restricted_standard(make_model: MakeModel) -> None:
    model = make_model("strict")
    model.wait_ready()
    for namespace in (SYSTEM, model.namespace):
        assert get("namespace", namespace)["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
        pods = get("-n", namespace, "pods")["items"]
        containers = [container for pod in pods for container in pod["spec"]["containers"]]
        assert containers
        assert all(container["securityContext"]["readOnlyRootFilesystem"] for container in containers)
    assert not any("kube-api-access" in volume["name"] for volume in model.pods()[0]["spec"]["volumes"])


@pytest.mark.parametrize("part", ["operator", "gateway", "runtime"])
def test_the_images_hold_nothing_to_build_or_install_with(make_model: MakeModel, part: str) -> None:
    target = ["-n", SYSTEM, f"deployment/modelyard-{part}"]
    if part == "runtime":
        model = make_model("bare")
        model.wait_ready()
        target = ["-n", model.namespace, "deployment/bare"]
    script = (
        "id -u; for tool in pip pip3 cc gcc make; do command -v $tool; done; "
        "python -m pip --version 2>/dev/null; touch /written 2>/dev/null && echo written"
    )
    command = ["kubectl", "exec", *target, "--", "sh", "-c", f"{script}; true"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert output.split() == ["65532"]


def test_the_custom_resources_outlive_the_release(make_model: MakeModel) -> None:
    model = make_model("survivor")
    model.wait_ready()
    uninstall()
    try:
        assert exists("crd", "inferencemodels.modelyard.dev", "tenants.modelyard.dev")
        assert model.get()["spec"]["model"]["source"] == "builtin://tiny-chat"
        assert model.pods(), "the model goes on without the operator"
        assert not exists("clusterrole,clusterrolebinding", "-l", "app.kubernetes.io/name=modelyard")
    finally:
        install()
    model.wait_ready()


def _may(who: str, verb: str, resource: str, where: str) -> bool:
    namespace = "default" if where == "anywhere" else where
    command = ["kubectl", "auth", "can-i", verb, *resource.split(), "-n", namespace, f"--as={who}"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() == "yes"
