import asyncio
from contextlib import asynccontextmanager

import pytest
from modelyard.api.names import API_VERSION, MODEL_LABEL
from modelyard.controller.gather import Cluster
from modelyard.controller.models import Models
from modelyard.controller.projections import CHILDREN
from modelyard.controller.queue import WorkQueue
from modelyard.controller.reconcile import NotLeading, Reconciler, Refused
from modelyard.controller.reports import Reports
from modelyard.controller.scaler import Scaler
from modelyard.controller.types import BuildSettings, Key
from modelyard.kube.client import ApiFailure

KEY = Key("default", "assistant")
MODEL = f"/apis/{API_VERSION}/namespaces/default/inferencemodels/assistant"
PATHS = {kind: resource.path("default", "assistant") for kind, resource in CHILDREN.items()}


class Rig:
    """A reconciler over the fake API server, with a test's hands on its parts."""

    def __init__(self, api, client):
        self.api, self.models, self.queue, self.leading = api, Models(), WorkQueue(), True
        self.scaler, self.reports = Scaler(self.queue), Reports(self.queue.add)
        self.cluster = Cluster(
            client, self.models, self.queue, watch_namespace=None, gateway=("gw", "private"), on_gateways=lambda gateways: None
        )
        self.reconciler = Reconciler(
            client=client,
            models=self.models,
            cluster=self.cluster,
            scaler=self.scaler,
            reports=self.reports,
            queue=self.queue,
            settings=BuildSettings(),
            leading=lambda: self.leading,
        )

    def add(self, raw):
        return self.models.put(self.api.put(MODEL, raw))

    def apply(self, raw):
        """Stores a changed model, as the user and then the watch would."""
        metadata = self.api.objects[MODEL]["metadata"]
        raw = raw | {
            "metadata": {**metadata, "generation": metadata["generation"] + 1},
            "status": self.api.objects[MODEL].get("status", {}),
        }
        return self.models.put(self.api.put(MODEL, raw))

    async def settle(self):
        """Reconciles until there is no write left to do."""
        for _ in range(5):
            before = len(self.api.calls)
            await self.reconciler.reconcile(KEY)
            if len(self.api.calls) == before:
                return
        raise AssertionError("it never comes to rest")

    async def seen(self, *paths):
        """Waits until the informers have caught up with the API server."""
        async with asyncio.timeout(10):
            while any(self._record(path) != (path in self.api.objects) for path in paths):  # noqa: ASYNC110 (informers tell only one listener)
                await asyncio.sleep(0.01)

    def _record(self, path):
        kind = next(kind for kind, known in PATHS.items() if known == path)
        return self.cluster.children[kind].get("default", "assistant") is not None

    def condition(self, name="Ready"):
        return next(c for c in self.api.objects[MODEL]["status"]["conditions"] if c["type"] == name)


@pytest.fixture
async def rig(api, client):
    rig = Rig(api, client)
    tasks = [asyncio.create_task(informer.run()) for informer in rig.cluster.informers]
    await asyncio.gather(*(informer.synced.wait() for informer in rig.cluster.informers))
    yield rig
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await rig.reports.close()
    await rig.scaler.reset()


@asynccontextmanager
async def expect(error):
    with pytest.raises(error):
        yield


async def test_a_model_gets_its_children_in_one_pass_and_its_status_in_the_next(rig, make_raw):
    rig.add(make_raw())
    await rig.reconciler.reconcile(KEY)
    assert set(PATHS.values()) <= rig.api.objects.keys()
    assert rig.api.writes() == [
        ("PATCH", PATHS[kind]) for kind in ("ServiceAccount", "NetworkPolicy", "Service", "Deployment", "PodDisruptionBudget")
    ]
    assert "status" not in rig.api.objects[MODEL]
    await rig.reconciler.reconcile(KEY)
    assert rig.api.writes()[5:] == [("PATCH", f"{MODEL}/status")]
    assert (rig.condition()["status"], rig.condition()["reason"]) == ("False", "Pending")


async def test_a_warm_reconcile_makes_no_call(rig, make_raw):
    rig.add(make_raw())
    await rig.settle()
    before = list(rig.api.calls)
    for _ in range(10):
        await rig.reconciler.reconcile(KEY)
    assert rig.api.calls == before


async def test_a_change_writes_only_what_differs(rig, make_raw):
    rig.add(make_raw())
    await rig.settle()
    done = len(rig.api.writes())
    assert rig.apply(make_raw(limits={"maxQueue": 7})) == {KEY}
    await rig.settle()
    assert rig.api.writes()[done:] == [("PATCH", PATHS["Deployment"]), ("PATCH", f"{MODEL}/status")]
    assert "--max-queue=7" in rig.api.objects[PATHS["Deployment"]]["spec"]["template"]["spec"]["containers"][0]["args"]


async def test_the_number_of_replicas_is_handed_over_as_it_is(rig, make_raw):
    rig.add(make_raw(scaling={"minReplicas": 3}))
    await rig.settle()
    done = len(rig.api.writes())
    rig.apply(make_raw(scaling={"minReplicas": 3, "mode": "External"}))
    await rig.reconciler.reconcile(KEY)
    assert rig.api.writes()[done : done + 2] == [("PATCH", PATHS["Deployment"])] * 2  # to a manager of its own, then without it
    assert rig.api.objects[PATHS["Deployment"]]["spec"]["replicas"] == 3


async def test_drift_is_repaired_and_a_deleted_child_comes_back(rig, make_raw):
    rig.add(make_raw())
    await rig.settle()
    await rig.seen(*PATHS.values())
    edited = rig.api.objects[PATHS["Deployment"]]
    rig.api.put(PATHS["Deployment"], edited | {"spec": edited["spec"] | {"replicas": 5}})
    rig.api.drop(PATHS["Service"])
    await rig.seen(PATHS["Service"])
    async with asyncio.timeout(5):
        assert await rig.queue.get() == KEY  # the watch marks the model by itself
    await rig.settle()
    assert rig.api.objects[PATHS["Deployment"]]["spec"]["replicas"] == 1
    assert PATHS["Service"] in rig.api.objects


async def test_a_missed_deletion_brings_no_child_back(rig, make_raw):
    rig.add(make_raw())
    await rig.settle()
    await rig.seen(*PATHS.values())
    for path in (MODEL, *PATHS.values()):
        rig.api.drop(path)
    await rig.seen(*PATHS.values())
    done = len(rig.api.writes())
    await rig.reconciler.reconcile(KEY)
    assert KEY not in rig.models
    assert len(rig.api.writes()) == done


async def test_a_model_made_anew_has_its_own_number_of_replicas(rig, make_raw):
    scaling = {"minReplicas": 0, "maxReplicas": 5}
    rig.add(make_raw(scaling=scaling | {"minReplicas": 3}))
    await rig.settle()
    await rig.seen(*PATHS.values())
    rig.apply(make_raw(scaling=scaling))
    await rig.settle()
    assert rig.scaler.desired(KEY) == 3
    rig.api.drop(MODEL)
    rig.models.remove(KEY)
    rig.add(make_raw(uid="uid-2", scaling=scaling))  # before anybody looked at the deletion, or collected the children
    await rig.settle()
    deployment = rig.api.objects[PATHS["Deployment"]]
    assert (deployment["metadata"]["ownerReferences"][0]["uid"], deployment["spec"]["replicas"]) == ("uid-2", 0)


async def test_a_model_that_goes_gets_nothing_more(rig, make_raw):
    raw = make_raw()
    raw["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    rig.add(raw)
    await rig.reconciler.reconcile(KEY)
    assert rig.api.writes() == []


async def test_a_refusal_is_told_and_clears_by_itself(rig, make_raw):
    rig.api.refuse[PATHS["Deployment"]] = (403, 'deployments.apps "assistant" is forbidden: exceeded quota: team')
    rig.add(make_raw())
    async with expect(Refused):
        await rig.reconciler.reconcile(KEY)
    assert (rig.condition()["status"], rig.condition()["reason"]) == ("False", "QuotaExceeded")
    assert "ResourceQuota" in rig.condition()["message"]
    rig.api.refuse.clear()
    await rig.settle()
    assert rig.condition()["reason"] == "Pending"


async def test_an_outage_is_not_the_models_fault(rig, make_raw):
    rig.api.refuse[PATHS["Deployment"]] = (500, "etcd is away")
    rig.add(make_raw())
    async with expect(ApiFailure):
        await rig.reconciler.reconcile(KEY)
    assert "status" not in rig.api.objects[MODEL]


async def test_a_strangers_object_is_left_alone(rig, make_raw):
    stranger = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "assistant", "namespace": "default"}}
    rig.api.put(PATHS["ServiceAccount"], stranger)
    rig.add(make_raw())
    async with expect(Refused):
        await rig.reconciler.reconcile(KEY)
    assert "ownerReferences" not in rig.api.objects[PATHS["ServiceAccount"]]["metadata"]
    assert rig.condition()["reason"] == "NameConflict"
    assert "Rename the model" in rig.condition()["message"]


async def test_another_models_child_is_left_alone_and_a_namesakes_of_old_taken_over(rig, make_raw):
    rig.add(make_raw())
    await rig.settle()
    await rig.seen(*PATHS.values())
    service = rig.api.objects[PATHS["Service"]]
    (owner,) = service["metadata"]["ownerReferences"]
    rig.cluster.store("Service", service | {"metadata": service["metadata"] | {"ownerReferences": [owner | {"name": "other"}]}})
    done = len(rig.api.writes())
    async with expect(Refused):
        await rig.reconciler.reconcile(KEY)
    assert rig.api.writes()[done:][0] == ("PATCH", f"{MODEL}/status")
    assert "belongs to InferenceModel other" in rig.condition()["message"]
    rig.cluster.store("Service", service | {"metadata": service["metadata"] | {"ownerReferences": [owner | {"uid": "old"}]}})
    await rig.settle()
    assert rig.condition()["reason"] == "Pending"


async def test_a_namesake_is_told_with_its_owner(rig, make_raw):
    conflict = 'Apply failed with 2 conflicts: conflicts with "kubectl-create" using apps/v1:\n- .spec.selector\n- .spec.strategy'
    rig.api.refuse[PATHS["Deployment"]] = (409, conflict)
    rig.add(make_raw())
    async with expect(Refused):
        await rig.reconciler.reconcile(KEY)
    message = rig.condition()["message"]
    assert message.startswith("Deployment default/assistant exists and is not this model's: its fields are set by kubectl-create.")
    assert "\n" not in message


async def test_who_does_not_lead_writes_nothing(rig, make_raw):
    rig.add(make_raw())
    rig.leading = False
    async with expect(NotLeading):
        await rig.reconciler.reconcile(KEY)
    assert rig.api.writes() == []


async def test_a_model_of_a_newer_version_is_told_apart(rig, make_raw):
    rig.add(make_raw(novelty={"on": True}))
    await rig.settle()
    assert rig.condition()["reason"] == "InvalidSpec"
    assert "spec.novelty" in rig.condition()["message"]
    assert PATHS["Deployment"] not in rig.api.objects


async def test_a_value_that_cannot_be_read_is_told_in_plain_words(rig, make_raw):
    rig.add(make_raw(rollout={"drainTimeout": "soon"}))
    await rig.settle()
    message = rig.condition()["message"]
    assert message.startswith("spec.rollout.drainTimeout: ")
    assert "Value error" not in message


async def test_a_pods_cause_reaches_the_status(rig, make_raw):
    rig.add(make_raw())
    await rig.settle()
    pod = {
        "metadata": {"name": "assistant-1", "namespace": "default", "labels": {MODEL_LABEL: "assistant"}},
        "spec": {"containers": [{"name": "runtime", "resources": {"limits": {"nvidia.com/gpu": "1"}}}]},
        "status": {
            "phase": "Pending",
            "conditions": [
                {
                    "type": "PodScheduled",
                    "status": "False",
                    "reason": "Unschedulable",
                    "message": "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.",
                }
            ],
        },
    }
    rig.api.put("/api/v1/namespaces/default/pods/assistant-1", pod)
    async with asyncio.timeout(5):
        assert await rig.queue.get() == KEY
    await rig.settle()
    assert (rig.condition()["reason"], rig.condition("Scheduled")["reason"]) == ("InsufficientGPU", "InsufficientGPU")
    assert any("/events" in path for _, path in rig.api.writes())
