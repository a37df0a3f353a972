"""The chart installed once for all tests, and for each test a namespace of its own under the restricted Pod Security Standard."""

import os
import uuid
from collections.abc import Callable, Iterator

import harness
import pytest
from harness import RESTRICTED, SYSTEM, TEST_LABEL, Manifest, Model, exists, get, kubectl
from openai import OpenAI

MakeModel = Callable[..., Model]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Puts what needs a bare API server before what installs an operator. Leaves out what needs to freeze the API server where nothing
    can; such tests are not counted as skipped."""
    items.sort(key=lambda item: item.path.name != "test_api_server.py")
    if not os.environ.get("E2E_FREEZE"):
        left_out = [item for item in items if item.get_closest_marker("freeze")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session", autouse=True)
def clean() -> None:
    """A cluster without what an aborted run left behind."""
    _remove_leftovers()
    harness.uninstall()


@pytest.fixture(scope="session")
def release(clean: None) -> Iterator[None]:
    """Modelyard, installed from the chart; removed afterwards, but for the custom resource definitions, which stay by design."""
    harness.install()
    yield
    _remove_leftovers()
    harness.uninstall()
    kubectl("delete", "namespace", SYSTEM, "--wait=false")


@pytest.fixture
def gateway(release: None) -> Iterator[str]:
    """The gateway's address, without /v1; a test that installs the chart again changes it."""
    with harness.gateway_url() as url:
        yield url


@pytest.fixture
def openai(gateway: str) -> Iterator[OpenAI]:
    """The public client, unmodified."""
    with OpenAI(base_url=f"{gateway}/v1", api_key="none", max_retries=0, timeout=120) as client:
        yield client


@pytest.fixture(scope="module")
def namespace(release: None) -> Iterator[str]:
    """A namespace for the models of one module's tests, removed with all that is in it."""
    name = f"e2e-{uuid.uuid4().hex[:6]}"
    kubectl("create", "namespace", name)
    kubectl("label", "namespace", name, RESTRICTED, f"{TEST_LABEL}=true")
    yield name
    kubectl("-n", name, "delete", "inferencemodels", "--all")
    kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def make_model(namespace: str) -> Iterator[MakeModel]:
    """Makes models that are applied at once and deleted after the test."""
    made: list[Model] = []

    def make(name: str, source: str = "builtin://tiny-chat", **spec: Manifest) -> Model:
        made.append(Model(namespace, name, {"model": {"source": source}, "resources": {"cpu": "200m"}, **spec}))
        made[-1].apply()
        return made[-1]

    yield make
    for model in made:
        kubectl("-n", namespace, "delete", "im", model.name, "--ignore-not-found", "--wait=false")


def _remove_leftovers() -> None:
    """Removes what an aborted run left behind. Models of others are not touched: with them the run ends before it began."""
    if not exists("crd", "inferencemodels.modelyard.dev"):
        return
    ours = {item["metadata"]["name"] for item in get("namespaces", "-l", TEST_LABEL)["items"]}
    models = [Model(item["metadata"]["namespace"], item["metadata"]["name"], {}) for item in get("im", "-A")["items"]]
    if strangers := [model.key for model in models if model.namespace not in ours]:
        pytest.exit(f"this cluster serves models, and the tests reinstall Modelyard: use another cluster ({', '.join(strangers)})", 2)
    for name in sorted(ours - {SYSTEM}):
        kubectl("delete", "namespace", name, "--wait=false")
