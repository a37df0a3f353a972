"""Reconciliation: gather → plan → apply, for one model at a time.

Only what differs is written, so that a model in order costs no API call. A refused write (a quota, an admission rule, a namesake)
is told in status as a root cause and tried again with growing pauses; anything else that fails is simply tried again.
"""

import re
import time
from collections.abc import Callable
from dataclasses import replace

from pydantic import ValidationError

from modelyard.api.inference_model import InferenceModel, InferenceModelStatus, Metadata
from modelyard.api.names import API_VERSION, FIELD_MANAGER, KIND
from modelyard.api.reasons import Reason, Termination
from modelyard.api.wording import path_of, said
from modelyard.controller import causes, status
from modelyard.controller.gather import Cluster
from modelyard.controller.models import Models
from modelyard.controller.plan import object_id, plan
from modelyard.controller.queue import Urgency, WorkQueue
from modelyard.controller.reports import Reports
from modelyard.controller.scaler import Scaler
from modelyard.controller.types import BuildSettings, Event, Key, Manifest, Observed, Plan, PodPhase
from modelyard.kube import apply as kube
from modelyard.kube import events
from modelyard.kube.client import APPLY_PATCH, ApiFailure, KubeClient, Object

#: A new model's children come first; its status follows with their first news, or after this many seconds.
STATUS_DELAY = 1.0
_REFUSALS = frozenset({400, 403, 409, 422})


class NotLeading(Exception):
    """The Lease is lost: another process writes now."""


class Refused(Exception):
    """The API server refuses an object of the model, for the cause given."""

    def __init__(self, cause: Termination):
        super().__init__(cause.message)
        self.cause = cause


class Reconciler:
    """Brings one model at a time in order. ``leading`` is asked before every write."""

    def __init__(
        self,
        *,
        client: KubeClient,
        models: Models,
        cluster: Cluster,
        scaler: Scaler,
        reports: Reports,
        queue: WorkQueue,
        settings: BuildSettings,
        leading: Callable[[], bool],
    ):
        self._client, self._models, self._cluster, self._scaler = client, models, cluster, scaler
        self._reports, self._queue, self._settings, self._leading = reports, queue, settings, leading
        self._uids: dict[Key, str] = {}  # whose memory the others keep by key

    async def reconcile(self, key: Key) -> None:
        """Makes what the model says so, as far as it can be now; raises ApiFailure or Refused to be called again later."""
        if (model := await self._read(key)) is None or model.metadata.deletion_timestamp:
            self._forget(key)
            return
        if self._uids.setdefault(key, model.metadata.uid) != model.metadata.uid:
            self._forget(key)  # what is remembered is of an earlier model of this name
            self._uids[key] = model.metadata.uid
        observed = await self._gather(key, model)
        planned = plan(model, observed, self._settings)
        if await self._is_ghost(key, model, observed, planned):
            self._forget(key)
            return
        try:
            changed = await self._apply(model, observed, planned)
        except Refused as refusal:
            await self._tell(model, plan(model, replace(observed, refusal=refusal.cause), self._settings))
            raise
        self._note(key, model, observed, planned)
        if changed and not observed.previous.conditions:
            self._queue.add(key, Urgency.RESYNC, after=STATUS_DELAY)
        else:
            await self._tell(model, planned)

    async def _read(self, key: Key) -> InferenceModel | None:
        try:
            return self._models.get(key)
        except ValidationError as problem:
            await self._tell_invalid(key, problem)
            return None

    async def _gather(self, key: Key, model: InferenceModel) -> Observed:
        observed = await self._cluster.observe(key, model)
        return replace(
            observed,
            desired_replicas=self._scaler.desired(key),
            decisions=tuple(decision.model_dump(by_alias=True) for decision in self._scaler.decisions(key)),
            report=self._reports.of(key, self._cluster.pods_of(key)),
        )

    async def _is_ghost(self, key: Key, model: InferenceModel, observed: Observed, planned: Plan) -> bool:
        """Returns whether the model is gone and its deletion was missed; then garbage collection took the children that are missing.

        Asked only of models that had their children before, so that new ones cost no read.
        """
        if not observed.previous.conditions or len(observed.children) >= len(planned.desired):
            return False
        try:
            found = await self._client.get(kube.resource_path(API_VERSION, KIND, key.namespace, key.name))
        except ApiFailure as failure:
            if not failure.not_found:
                raise
            found = {"metadata": {}}
        if found["metadata"].get("uid") == model.metadata.uid:
            return False
        for other in self._models.remove(key) - {key}:
            self._queue.add(other)
        return True

    async def _apply(self, model: InferenceModel, observed: Observed, planned: Plan) -> bool:
        """Writes what differs, in order, and returns whether anything did."""
        pending = [manifest for manifest in planned.desired if kube.differs(manifest, observed.children.get(object_id(manifest)))]
        for manifest in pending:
            await self._write(model, manifest, observed.children.get(object_id(manifest)))
        for gone in planned.delete:
            self._guard()
            await kube.delete(self._client, observed.children[gone]["apiVersion"], gone.kind, model.metadata.namespace, gone.name)
        return bool(pending)

    async def _write(self, model: InferenceModel, manifest: Manifest, live: Manifest | None) -> None:
        """Applies one child. Over one of our own the plan wins; a stranger of the same name is left alone and told of."""
        self._guard()
        try:
            if live is not None:
                _refuse_others(model, manifest, live)
                await self._hand_over_replicas(manifest, live)
                stored = await kube.apply(self._client, manifest)
            else:
                await self._refuse_stranger(model, manifest)
                stored = await self._apply_politely(manifest)
        except ApiFailure as failure:
            if failure.status in _REFUSALS:
                raise Refused(_cause(manifest, failure)) from failure
            raise
        if "deletionTimestamp" in stored["metadata"]:
            self._queue.add(Key(model.metadata.namespace, model.metadata.name), Urgency.RESYNC, after=STATUS_DELAY)
        self._cluster.store(manifest["kind"], stored)

    async def _hand_over_replicas(self, manifest: Manifest, live: Manifest) -> None:
        """Leaves the number of replicas as it is when it is to become another autoscaler's: a field that nobody owns falls back to 1.

        https://kubernetes.io/docs/reference/using-api/server-side-apply/#transferring-ownership
        """
        if manifest["kind"] != "Deployment" or "replicas" in manifest["spec"] or "replicas" not in live["spec"]:
            return
        identity = {name: manifest["metadata"][name] for name in ("name", "namespace")}
        body = {name: manifest[name] for name in ("apiVersion", "kind")} | {
            "metadata": identity,
            "spec": {"replicas": live["spec"]["replicas"]},
        }
        try:
            params = {"fieldManager": f"{FIELD_MANAGER}-handover", "force": "false"}
            await self._client.patch(kube.path_of(manifest), body, content_type=APPLY_PATCH, params=params)
        except ApiFailure as failure:
            if not failure.conflict:  # a conflict says that the other autoscaler owns it already
                raise

    async def _apply_politely(self, manifest: Manifest) -> Object:
        """Applies a child that should not exist yet: whoever else owns its fields keeps them, and a conflict says so."""
        params = {"fieldManager": FIELD_MANAGER, "force": "false"}
        return await self._client.patch(kube.path_of(manifest), kube.stamped(manifest), content_type=APPLY_PATCH, params=params)

    async def _refuse_stranger(self, model: InferenceModel, manifest: Manifest) -> None:
        """Raises Refused for somebody else's ServiceAccount. It has no fields to conflict over, and would be deleted with the model."""
        if manifest["kind"] != "ServiceAccount":
            return
        try:
            found = await self._client.get(kube.path_of(manifest))
        except ApiFailure as failure:
            if failure.not_found:
                return
            raise
        if model.metadata.uid not in [owner["uid"] for owner in found["metadata"].get("ownerReferences", ())]:
            raise Refused(_namesake(manifest, "it belongs to somebody else"))

    async def _tell(self, model: InferenceModel, planned: Plan) -> None:
        """Writes status and events, where there is news."""
        if planned.status is not None:
            await self._write_status(model.metadata, planned.status)
            await self._emit(model, planned.events)

    async def _emit(self, model: InferenceModel, news: tuple[Event, ...]) -> None:
        for event in news:
            self._guard()
            await events.emit(self._client, model, event)

    async def _tell_invalid(self, key: Key, problem: ValidationError) -> None:
        """Tells of a model that this operator cannot read, as one written for a newer version."""
        raw, error = self._models.raw(key), problem.errors()[0]
        field = path_of(error["loc"])
        cause = Termination(Reason.INVALID_SPEC, f"{field}: {said(error)}", "Correct the field, or upgrade the operator.")
        metadata, previous = Metadata.model_validate(raw["metadata"]), InferenceModelStatus.model_validate(raw.get("status", {}))
        told = status.refused(metadata.generation, previous, cause, time.time())
        if told != previous:
            await self._write_status(metadata, told)

    async def _write_status(self, metadata: Metadata, told: InferenceModelStatus) -> None:
        self._guard()
        identity = {"namespace": metadata.namespace, "name": metadata.name, "uid": metadata.uid}
        body = told.model_dump(mode="json", by_alias=True, exclude_none=True)
        try:
            stored = await kube.apply_status(self._client, {"apiVersion": API_VERSION, "kind": KIND, "metadata": identity, "status": body})
        except ApiFailure as failure:
            if failure.not_found or failure.conflict:  # deleted meanwhile; the watch tells
                return
            raise
        self._models.wrote(stored)

    def _note(self, key: Key, model: InferenceModel, observed: Observed, planned: Plan) -> None:
        """Tells the autoscaler what runs now."""
        deployment = next(manifest for manifest in planned.desired if manifest["kind"] == "Deployment")
        ready = sum(pod.phase is PodPhase.READY for pod in observed.pods)
        failed = sum(pod.problem is not None and pod.phase is not PodPhase.TERMINATING for pod in observed.pods)
        self._scaler.note(key, model, deployment["spec"].get("replicas", 1), ready, failed)

    def _forget(self, key: Key) -> None:
        self._uids.pop(key, None)
        self._scaler.forget(key)
        self._reports.forget(key)
        self._queue.forget(key)

    def _guard(self) -> None:
        if not self._leading():
            raise NotLeading


def _cause(manifest: Manifest, failure: ApiFailure) -> Termination:
    """Explains why the API server refuses a child."""
    if failure.conflict:
        owners = sorted(set(re.findall(r'conflicts? with "([^"]+)"', failure.message)))
        return _namesake(manifest, f"its fields are set by {', '.join(owners)}" if owners else failure.message)
    return causes.refusal(f"{manifest['kind']} {manifest['metadata']['name']}: {failure.message}")


def _refuse_others(model: InferenceModel, manifest: Manifest, live: Manifest) -> None:
    """Raises Refused for a child that another object controls, such as a model whose own name is this one's cut and hashed.

    An earlier model of the same name is none: its children are taken over, or collected and made anew.
    """
    for owner in live["metadata"].get("ownerReferences", ()):
        if owner.get("controller") and (owner["kind"], owner["name"]) != (KIND, model.metadata.name):
            raise Refused(_namesake(manifest, f"it belongs to {owner['kind']} {owner['name']}"))


def _namesake(manifest: Manifest, why: str) -> Termination:
    what = f"{manifest['kind']} {manifest['metadata']['namespace']}/{manifest['metadata']['name']}"
    return Termination(Reason.NAME_CONFLICT, f"{what} exists and is not this model's: {why}", "Rename the model, or delete that object.")
