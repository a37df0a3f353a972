"""How pods are exchanged: the decision alone, and with real processes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from modelyard.controller.types import Key
from modelyard.local.workload import Change, Replica, Workload, exchange, revision


def replica(name, *, current=True, ready=True, stopping=False, created_at=0.0):
    return Replica(name, current, ready, stopping, created_at)


OLD = {"current": False}


@pytest.mark.parametrize(
    ("pods", "replicas", "surge", "unavailable", "change"),
    [
        ([], 2, 1, 0, Change(2, ())),
        ([replica("a")], 1, 1, 0, Change(0, ())),
        ([replica("a")], 0, 1, 0, Change(0, ("a",))),
        ([replica("a", created_at=1), replica("b", created_at=2)], 1, 1, 0, Change(0, ("b",))),
        ([replica("a", ready=False, created_at=1), replica("b", created_at=2)], 1, 1, 0, Change(0, ("a",))),
        # Surge: the new one first, the old one when the new one is ready.
        ([replica("o", **OLD)], 1, 1, 0, Change(1, ())),
        ([replica("o", **OLD), replica("n", ready=False)], 1, 1, 0, Change(0, ())),
        ([replica("o", **OLD), replica("n")], 1, 1, 0, Change(0, ("o",))),
        ([replica("o", ready=False, **OLD)], 1, 1, 0, Change(1, ("o",))),
        # Replace: the old one first, the new one when the old one is gone.
        ([replica("o", **OLD)], 1, 0, 1, Change(0, ("o",))),
        ([replica("o", stopping=True, **OLD)], 1, 0, 1, Change(0, ())),
        ([replica("o", **OLD), replica("p", **OLD)], 2, 0, 1, Change(0, ("o",))),
        ([replica("p", **OLD), replica("n", ready=False)], 2, 0, 1, Change(0, ())),
        ([replica("p", **OLD), replica("n")], 2, 0, 1, Change(0, ("p",))),
    ],
)
def test_next_step(pods, replicas, surge, unavailable, change):
    assert exchange(pods, replicas, surge, unavailable) == change


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=6), st.integers(0, 4), st.booleans())
def test_every_exchange_ends_without_too_few_or_too_many(start, replicas, surging):
    """Pods become ready and go one by one; the bounds hold at every step as far as they held before, and the end is reached."""
    surge, unavailable = (1, 0) if surging else (0, 1)
    pods = {str(number): replica(str(number), current=current, ready=ready) for number, (current, ready) in enumerate(start)}
    for step in range(60):
        before = sum(pod.ready for pod in pods.values())
        change = exchange(list(pods.values()), replicas, surge, unavailable)
        pods = {name: pod for name, pod in pods.items() if name not in change.stop}
        after = sum(pod.ready for pod in pods.values())
        assert after >= min(before, replicas - unavailable)
        for number in range(change.start):
            pods[f"{step}-{number}"] = replica(f"{step}-{number}", ready=False)
        assert len(pods) <= max(replicas + surge, len(start))
        pods = {name: pod._replace(ready=True) if pod.current else pod for name, pod in pods.items()}
    assert [pod.current for pod in pods.values()] == [True] * replicas


def test_a_revision_follows_the_template():
    assert revision({"a": 1, "b": 2}) == revision({"b": 2, "a": 1}) != revision({"a": 1, "b": 3})


def deployment(template, *, replicas, surge=1, mark="1"):
    spec = template.spec(env=[{"name": "MARK", "value": mark}])
    limits = {"maxSurge": surge, "maxUnavailable": 1 - surge}
    return {
        "metadata": {"name": "m"},
        "spec": {"replicas": replicas, "strategy": {"rollingUpdate": limits}, "template": {"spec": spec}},
    }


@pytest.fixture
async def workload(host, news):
    made = Workload(Key("default", "m"), host, news)
    yield made
    made.kill()
    await made.gone()


@pytest.mark.parametrize("surge", [1, 0])
async def test_a_change_replaces_pods_in_the_planned_order(workload, news, template, surge):
    workload.apply(deployment(template, replicas=1, surge=surge))
    await news.until(lambda: len(workload.endpoints) == 1)
    [old] = workload.pods.values()
    endpoints, overlaps = [], []
    changed = deployment(template, replicas=1, surge=surge, mark="2")

    def step():
        workload.apply(changed)
        endpoints.append(len(workload.endpoints))
        overlaps.append(old.pid is not None and any(pod.pid for pod in workload.pods.values() if pod is not old))

    news.actions.append(step)
    step()
    await news.until(lambda: old.name not in workload.pods and len(workload.endpoints) == 1)
    assert (min(endpoints) == 1) is bool(surge)
    assert any(overlaps) is bool(surge)


async def test_scales_up_and_down(workload, news, template):
    workload.apply(deployment(template, replicas=2))
    await news.until(lambda: len(workload.endpoints) == 2)
    workload.apply(deployment(template, replicas=0))
    assert workload.endpoints == frozenset()
    await workload.gone()
    assert workload.pods == {}
