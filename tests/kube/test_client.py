"""The client against answers good and bad."""

import ssl
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from modelyard.kube.client import ApiFailure, KubeClient, Resource, Unreachable
from modelyard.kube.credentials import Credentials, NoCluster, find, from_kubeconfig, from_service_account

THINGS = Resource("example.com/v1", "things")


def test_paths() -> None:
    assert THINGS.path() == "/apis/example.com/v1/things"
    assert THINGS.path("ns", "a") == "/apis/example.com/v1/namespaces/ns/things/a"
    assert Resource("v1", "nodes").path(name="n") == "/api/v1/nodes/n"


async def test_objects_come_and_go_as_json(api: Any, client: KubeClient) -> None:
    await api.put("a", data=1)
    assert (await client.get(THINGS.path("ns", "a")))["data"] == 1
    sent = await client.patch(THINGS.path("ns", "a"), {"b": "ü"}, params={"force": "true"})
    assert sent == {"method": "PATCH", "body": '{"b":"ü"}', "query": {"force": "true"}}
    assert api.requests[-1].headers["content-type"] == "application/merge-patch+json"
    assert client.calls == 2


async def test_lists_are_read_in_pages(api: Any, client: KubeClient) -> None:
    for number in range(7):
        await api.put(f"a{number}")
    pages = [page async for page in client.pages(THINGS.path(), limit=3)]
    assert [len(page["items"]) for page in pages] == [3, 3, 1]
    assert len(await client.list(THINGS.path())) == 7


async def test_failures_carry_status_reason_and_message(api: Any, client: KubeClient) -> None:
    with pytest.raises(ApiFailure, match=r"NotFound \(404\): NotFound it is") as missing:
        await client.get(THINGS.path("ns", "a"))
    assert missing.value.not_found
    api.failures = [web.Response(status=502, text="<html>bad gateway")]
    with pytest.raises(ApiFailure, match=r"HTTP502 \(502\): <html>bad gateway"):
        await client.get(THINGS.path("ns", "a"))
    api.failures = [web.Response(status=200, text="nonsense")]
    with pytest.raises(ApiFailure, match="not JSON"):
        await client.get(THINGS.path("ns", "a"))


async def test_throttling_is_waited_out(api: Any, client: KubeClient) -> None:
    await api.put("a")
    api.failures = [api.failure(429, "TooManyRequests", retry_after="0"), api.failure(503, "ServiceUnavailable", retry_after="0")]
    assert await client.get(THINGS.path("ns", "a"))
    api.failures = [api.failure(429, "TooManyRequests", retry_after="0") for _ in range(5)]
    with pytest.raises(ApiFailure, match="TooManyRequests"):
        await client.get(THINGS.path("ns", "a"))
    assert client.calls == 3 + 5


async def test_a_server_error_without_retry_after_is_raised_at_once(api: Any, client: KubeClient) -> None:
    api.failures = [api.failure(500, "InternalError")]
    with pytest.raises(ApiFailure, match="InternalError"):
        await client.get(THINGS.path("ns", "a"))
    assert client.calls == 1


async def test_a_rotated_token_is_read_again(api: Any) -> None:
    await api.put("a")
    tokens = iter(["Bearer old", "Bearer good"])
    async with KubeClient(Credentials(f"http://127.0.0.1:{api.port}", None, lambda: next(tokens))) as client:
        assert await client.get(THINGS.path("ns", "a"))
        assert client.calls == 2


async def test_no_server_is_unreachable() -> None:
    async with KubeClient(Credentials("http://127.0.0.1:1", None, lambda: None)) as client:
        with pytest.raises(Unreachable, match=r"no answer from the API server at http://127\.0\.0\.1:1"):
            await client.get("/readyz")
        with pytest.raises(Unreachable):
            _ = [event async for event in client.watch(THINGS.path(), resource_version="1")]


def test_no_configuration_says_what_to_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(NoCluster, match="set KUBECONFIG"):
        from_kubeconfig(str(tmp_path / "none"))
    monkeypatch.delenv("KUBECONFIG")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setattr("modelyard.kube.credentials.SERVICE_ACCOUNT", tmp_path)
    with pytest.raises(NoCluster, match="automountServiceAccountToken"):
        find()


def test_the_service_account_is_read_as_it_rotates(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text(
        "".join(map(ssl.DER_cert_to_PEM_cert, ssl.create_default_context().get_ca_certs(binary_form=True)[:1]))
    )
    (tmp_path / "token").write_text("one\n")
    credentials = from_service_account(tmp_path, "fd00::1", "6443")
    assert (credentials.server, credentials.read()) == ("https://[fd00::1]:6443", "Bearer one")
    (tmp_path / "token").write_text("two\n")
    assert credentials.read() == "Bearer two"


def test_a_kubeconfig_with_a_token(tmp_path: Path) -> None:
    (tmp_path / "config").write_text(
        "{apiVersion: v1, kind: Config, current-context: c, clusters: [{name: k, cluster: {server: 'http://127.0.0.1:8001'}}],"
        " users: [{name: u, user: {token: secret}}], contexts: [{name: c, context: {cluster: k, user: u}}]}"
    )
    credentials = from_kubeconfig(str(tmp_path / "config"))
    assert (credentials.server, credentials.read(), credentials.tls) == ("http://127.0.0.1:8001", "Bearer secret", None)
    assert "secret" not in repr(credentials)
