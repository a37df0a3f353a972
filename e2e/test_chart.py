"""The chart as helm sees it: lint, every option rendered, and values that are refused."""

import subprocess

import pytest
import yaml
from harness import CHART, Manifest, run

OPTIONS = {
    "defaults": (),
    "ingress": ("gateway.ingress.enabled=true", "gateway.ingress.hosts={models.example.com}"),
    "http route": ("gateway.httpRoute.enabled=true", "gateway.httpRoute.parentRefs[0].name=public"),
    "monitoring": ("monitoring.serviceMonitor.enabled=true", "monitoring.serviceMonitor.labels.release=prometheus"),
    "one namespace": ("watchNamespace=models",),
    "single replicas": ("operator.replicas=1", "gateway.replicas=1"),
    "placement": (
        "gateway.nodeSelector.pool=edge",
        "gateway.priorityClassName=high",
        "gateway.tolerations[0].key=edge",
        "imagePullSecrets[0].name=pull",
        "operator.env.MODELYARD_LOG_LEVEL=debug",
        "operator.podLabels.team=ml",
    ),
    "nothing optional": ("crds.install=false", "networkPolicy.enabled=false"),
}

REFUSED = {
    "gateway.drainTimeout=90": "/gateway/drainTimeout",
    "gateway.replicas=0": "/gateway/replicas",
    "gateway.replica=3": "replica",
    "operator.imagePullPolicy=Sometimes": "/operator/imagePullPolicy",
    "operator.env.lower=1": "lower",
    "runtime.image=": "/runtime/image",
    "watchNamespace=Not_A_Name": "/watchNamespace",
    "gateway.ingress.enabled=true": "name at least one host",
    "gateway.httpRoute.enabled=true": "name the Gateway",
}


def render(*settings: str, name: str = "modelyard") -> list[Manifest]:
    """Returns what the chart installs."""
    flags = [word for setting in settings for word in ("--set", setting)]
    text = run("helm", "template", name, str(CHART), "-n", "somewhere", "--kube-version", "1.35.0", *flags)
    return [manifest for manifest in yaml.safe_load_all(text) if manifest]


def test_lint() -> None:
    run("helm", "lint", "--strict", str(CHART))


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_renders(option: str) -> None:
    manifests = render(*OPTIONS[option])
    identities = [(manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests]
    assert len(set(identities)) == len(identities)
    for manifest in manifests:
        if manifest["kind"] != "CustomResourceDefinition":
            assert manifest["metadata"]["labels"]["app.kubernetes.io/instance"] == "modelyard"


@pytest.mark.parametrize("setting", REFUSED)
def test_wrong_values_are_refused_by_name(setting: str) -> None:
    command = ["helm", "template", "modelyard", str(CHART), "--kube-version", "1.35.0", "--set", setting]
    refusal = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refusal.returncode != 0
    assert REFUSED[setting] in refusal.stderr


def test_definitions_are_kept_and_whole() -> None:
    definitions = {m["metadata"]["name"]: m for m in render() if m["kind"] == "CustomResourceDefinition"}
    assert set(definitions) == {"inferencemodels.modelyard.dev", "tenants.modelyard.dev"}
    for name, rendered in definitions.items():
        plural, _, group = name.partition(".")
        source = yaml.safe_load((CHART.parents[1] / "crds" / f"{group}_{plural}.yaml").read_text())
        assert rendered["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
        assert rendered == source


def test_one_namespace_needs_no_cluster_wide_rights() -> None:
    manifests = render("watchNamespace=models")
    assert not [m for m in manifests if m["kind"].startswith("ClusterRole")]
    assert {m["metadata"]["namespace"] for m in manifests if m["kind"] == "Role"} == {"models", "somewhere"}


def test_nobody_reads_secrets_or_enters_pods() -> None:
    rules = [rule for m in render() if m["kind"] in ("Role", "ClusterRole") for rule in m["rules"]]
    assert rules
    for rule in rules:
        assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
        assert not {"secrets", "pods/exec", "pods/attach", "pods/portforward"} & set(rule["resources"])


def test_the_grace_period_outlasts_the_drain() -> None:
    deployments = {m["metadata"]["name"]: m for m in render("gateway.drainTimeout=2h") if m["kind"] == "Deployment"}
    assert deployments["modelyard-gateway"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 2 * 3600 + 15


def test_another_release_name_is_carried_through() -> None:
    manifests = render(name="blue")
    operator = next(m for m in manifests if m["kind"] == "Deployment" and m["metadata"]["name"].endswith("operator"))
    env = {e["name"]: e["value"] for e in operator["spec"]["template"]["spec"]["containers"][0]["env"]}
    services = {m["metadata"]["name"] for m in manifests if m["kind"] == "Service"}
    assert env["MODELYARD_GATEWAY_SERVICE"] in services
    assert env["MODELYARD_GATEWAY_URL"] == "http://blue-modelyard-gateway.somewhere.svc:8080/v1"
