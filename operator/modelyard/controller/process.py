"""The operator as one process: it wires the parts, elects a leader, and runs the workers while it leads."""

import asyncio
import logging
from typing import Any

from modelyard.api.names import API_VERSION, GROUP, PLURAL
from modelyard.controller import metrics, probes
from modelyard.controller.gather import Cluster
from modelyard.controller.models import Models, key_of
from modelyard.controller.queue import Urgency, WorkQueue
from modelyard.controller.reconcile import NotLeading, Reconciler, Refused
from modelyard.controller.reports import Reports
from modelyard.controller.scaler import Scaler
from modelyard.controller.settings import OperatorSettings
from modelyard.kube.client import ApiFailure, KubeClient, Resource
from modelyard.kube.lease import LeaderLease

log = logging.getLogger(__name__)

_TICK_SECONDS = 1.0
_CRD_RETRY_SECONDS = 3.0


class Operator:
    """Follows the cluster from `start` to `stop`, and writes while it holds the Lease."""

    def __init__(self, settings: OperatorSettings, client: KubeClient):
        self.settings, self.client = settings, client
        self.models, self.queue = Models(), WorkQueue()
        self.scaler = Scaler(self.queue)
        self.reports = Reports(lambda key: self.queue.add(key, Urgency.RESYNC))
        self.cluster = Cluster(
            client,
            self.models,
            self.queue,
            watch_namespace=settings.watch_namespace or None,
            gateway=(settings.gateway_namespace, settings.gateway_service),
            on_gateways=self._gateways_changed,
        )
        duration = settings.lease_duration
        self.lease = LeaderLease(
            client,
            settings.namespace,
            settings.lease_name,
            settings.identity,
            duration=duration,
            deadline=duration * 2 / 3,
            renew=duration / 3,
            on_change=self._leadership_changed,
        )
        self.reconciler = Reconciler(
            client=client,
            models=self.models,
            cluster=self.cluster,
            scaler=self.scaler,
            reports=self.reports,
            queue=self.queue,
            settings=settings.build(),
            leading=lambda: self.lease.is_leader,
        )
        self.probes = probes.Probes(self)
        self._tasks: list[asyncio.Task[None]] = []
        self._workers: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Serves the probes, fills the records, then takes part in the election."""
        await self.probes.start()
        await self._wait_for_crd()
        self._tasks = [asyncio.create_task(informer.run(), name=f"watch {informer.resource.plural}") for informer in self.cluster.informers]
        await asyncio.gather(*(informer.synced.wait() for informer in self.cluster.informers))
        self._tasks += [asyncio.create_task(self.lease.run(), name="lease"), asyncio.create_task(self._tick(), name="tick")]

    async def stop(self) -> None:
        """Stops writing, gives the Lease back and closes every connection."""
        await _end(self._workers)
        await _end(self._tasks)
        await self.scaler.reset()
        await self.reports.close()
        await self.probes.stop()

    def model_seen(self, kind: str, raw: dict[str, Any]) -> None:
        """Takes over an event of a model's watch; listed models come with an empty kind."""
        touched = self.models.seen(kind, raw)
        metrics.MODELS.set(len(self.models))
        for each in touched:
            self.queue.add(each)
        if kind == "DELETED" and not self.lease.is_leader:  # nobody works here, and the keys of all models that ever were would pile up
            self.queue.forget(key_of(raw))

    async def is_unserved(self) -> bool:
        """Returns whether the API server says that it knows no InferenceModels: their CRD was deleted."""
        try:
            await self._ask_for_models()
        except ApiFailure as failure:
            return failure.not_found
        return False

    async def _ask_for_models(self) -> None:
        await self.client.request("GET", Resource(API_VERSION, PLURAL).path(), params={"limit": 1})

    async def _wait_for_crd(self) -> None:
        """Waits until the API server serves InferenceModels: kopf looks for them once only."""
        while True:
            try:
                await self._ask_for_models()
            except ApiFailure as failure:
                log.warning("%s.%s are not served yet: %s; apply the CRDs if they are missing", PLURAL, GROUP, failure)
                await asyncio.sleep(_CRD_RETRY_SECONDS)
            else:
                return

    def _leadership_changed(self, leading: bool) -> None:
        metrics.LEADER.set(leading)
        for worker in self._workers:
            worker.cancel()
        self._workers = []
        if leading:
            for key in self.models:
                self.queue.add(key, Urgency.RESYNC)
            self.scaler.feeds.follow(self.cluster.known_gateways())
            self._workers = [asyncio.create_task(self._work(), name=f"worker {number}") for number in range(self.settings.workers)]
        else:
            self._tasks.append(asyncio.create_task(self.scaler.reset(), name="reset"))

    def _gateways_changed(self, gateways: frozenset[Any]) -> None:
        if self.lease.is_leader:
            self.scaler.feeds.follow(gateways)

    async def _work(self) -> None:
        while True:
            key = await self.queue.get()
            failed = True
            try:
                with metrics.RECONCILE_SECONDS.time():
                    await self.reconciler.reconcile(key)
                failed = False
            except (Refused, ApiFailure) as failure:
                metrics.RECONCILE_ERRORS.labels(getattr(failure, "reason", "Refused")).inc()
                log.warning("%s: %s", key, failure)
            except NotLeading:
                log.info("%s: left to the new leader", key)
            except Exception:
                metrics.RECONCILE_ERRORS.labels("Bug").inc()
                log.exception("%s: cannot be reconciled", key)
            finally:
                self.queue.done(key, failed=failed)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            if self.lease.is_leader:
                self.scaler.tick()


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    tasks.clear()
