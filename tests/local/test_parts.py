"""Small parts: probes, ports, devices, counters, the autoscaler's memory."""

import socket

import pytest
from modelyard.api.validation import load_manifests
from modelyard.controller.types import Demand, PodPhase, PodView
from modelyard.local import devices, ports, reports
from modelyard.local.devices import Devices
from modelyard.local.errors import PortTaken
from modelyard.local.probes import Probe
from modelyard.local.scaler import Scaler


def test_a_probe_fails_only_after_its_threshold():
    probe = Probe({"httpGet": {"path": "/x"}, "periodSeconds": 2, "failureThreshold": 2})
    assert probe.due(0.0)
    probe.note(0.0, ok=True)
    assert probe.succeeded
    assert not probe.due(1.9)
    assert probe.wait(1.5) == 0.5
    probe.note(2.0, ok=False)
    assert probe.succeeded
    probe.note(4.0, ok=False)
    assert probe.failed
    assert not probe.succeeded
    probe.hasten()
    assert probe.due(4.0)
    probe.note(4.0, ok=True)
    assert probe.succeeded
    assert not probe.failed


@pytest.mark.parametrize(
    ("address", "reached"),
    [("0.0.0.0", "127.0.0.1"), ("", "127.0.0.1"), ("::", "::1"), ("192.168.0.2", "192.168.0.2"), ("localhost", "localhost")],
)
def test_all_addresses_are_reached_at_the_own_one(address, reached):
    assert ports.reached(address) == reached


def test_a_port_that_is_taken_is_avoided_or_refused():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        assert ports.for_gateway("127.0.0.1", None, taken) == 0
        with pytest.raises(PortTaken, match=f"port {taken}"):
            ports.for_gateway("127.0.0.1", taken, 1)
    assert ports.for_gateway("127.0.0.1", None, taken) == taken
    assert len(set(ports.free("127.0.0.1", 5))) == 5


def test_devices_are_lent_and_given_back():
    pool = Devices(("0", "1", "2"))
    assert pool.shortage({"nvidia.com/gpu": 2}) is None
    assert pool.take({"nvidia.com/gpu": 2}) == ("0", "1")
    assert pool.shortage({"nvidia.com/gpu": 2}) == "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
    pool.give_back(("0", "1"))
    assert pool.shortage({"nvidia.com/gpu": 3}) is None
    assert "1 Insufficient amd.com/gpu" in pool.shortage({"amd.com/gpu": 1})
    assert pool.take({}) == ()


@pytest.mark.parametrize(("chosen", "names"), [("", ()), ("-1", ()), ("0,3", ("0", "3")), ("GPU-1f", ("GPU-1f",))])
def test_the_users_choice_of_devices_is_kept_to(monkeypatch, chosen, names):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert devices.visible() == names


def test_devices_are_those_that_the_driver_lists(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nprintf '0\\n1\\n'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert devices.visible() == ("0", "1")
    program.write_text("#!/bin/sh\nexit 9\n")
    assert devices.visible() == ()


def test_counters_are_summed_over_labels():
    metrics = 'x_total{model="a",status="200"} 2\nx_total{model="a",status="503"} 1\nx_total{model="b"} 5\nx_total_more 9\nplain 4.5'
    assert reports.total(metrics, "x_total") == 8
    assert reports.total(metrics, "x_total", 'model="a"') == 3
    assert reports.total(metrics, "plain") == 4.5


def test_the_autoscaler_wakes_at_once_and_sleeps_after_the_delay():
    text = (
        "{apiVersion: modelyard.dev/v1alpha1, kind: InferenceModel, metadata: {name: m},"
        " spec: {model: {source: 'builtin://tiny-chat'}, scaling: {minReplicas: 0, scaleDownDelay: 10s}}}"
    )
    [model] = load_manifests(text, "m.yaml")
    ready = (PodView("m-1", PodPhase.READY),)
    scaler = Scaler(now=0.0)
    assert not scaler.hear(model, 0, (), Demand(), 1.0)
    assert scaler.hear(model, 0, (), Demand(queued=1), 2.0)
    assert scaler.desired == 1
    assert not scaler.hear(model, 1, ready, Demand(in_flight=1), 20.0)
    assert not scaler.hear(model, 1, ready, Demand(), 29.0)
    assert scaler.hear(model, 1, ready, Demand(), 41.0)
    assert scaler.desired == 0
    assert [decision.to for decision in scaler.decisions] == [0, 1]
