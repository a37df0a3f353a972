"""Informer: a live, projected copy of a collection.

List in pages, then watch with bookmarks; resume from the last version seen; list again on 410. The copy outlives any absence of
the API server: records stay as last seen, and `last_seen` says how old they may be. Only projections are kept, because whole
objects cost about 10 KB each.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

from modelyard.kube.client import ApiFailure, KubeClient, Resource

T = TypeVar("T")
log = logging.getLogger(__name__)

BACKOFF_FIRST = 0.2
BACKOFF_LONGEST = 5.0


class ObjectKey(NamedTuple):
    """Namespace (empty for cluster-wide kinds) and name; equal to any other pair of the two."""

    namespace: str
    name: str


OnChange = Callable[[ObjectKey, T | None, T | None], None]


class Informer(Generic[T]):
    """Keeps `records`, the projections of all objects of a resource, up to date while `run` runs.

    project     object → what is kept of it; None leaves the object out. Must not raise.
    on_change   called as (key, old, new) in the event loop when a projection appears (old None), differs, or goes (new None).
                It should only mark something dirty. Projections that compare equal call nothing.
    synced      set once the first list is complete; stays set.
    last_seen   time.monotonic() of the last list, event or bookmark; 0.0 before the first. Bookmarks come each minute on a quiet
                collection, so an age above two to three minutes means that the watch is dead.
    """

    def __init__(
        self,
        client: KubeClient,
        resource: Resource,
        *,
        namespace: str | None = None,
        label_selector: str | None = None,
        project: Callable[[dict[str, Any]], T | None],
        on_change: OnChange[T] | None = None,
    ):
        self.resource = resource
        self.records: dict[ObjectKey, T] = {}
        self.synced = asyncio.Event()
        self.last_seen = 0.0
        self._client = client
        self._path = resource.path(namespace)
        self._label_selector = label_selector
        self._project = project
        self._on_change = on_change
        self._version: str | None = None  # of the last list, event or bookmark; None asks for a new list

    def get(self, namespace: str, name: str) -> T | None:
        """Returns the record of one object, or None."""
        return self.records.get(ObjectKey(namespace, name))

    @property
    def age(self) -> float:
        """Seconds since the API server was last heard of; infinite before the first list."""
        return time.monotonic() - self.last_seen if self.last_seen else float("inf")

    async def run(self) -> None:
        """Follows the collection until cancelled. Failures of the API server are waited out, 0.2 s at first, 5 s at most."""
        pause = BACKOFF_FIRST
        while True:
            before = self.last_seen
            try:
                await self._follow()
            except ApiFailure as failure:
                if failure.gone:
                    self._version = None
                log.log(logging.INFO if failure.gone else logging.WARNING, "watch of %s: %s", self.resource.plural, failure)
            if self.last_seen > before:
                pause = BACKOFF_FIRST
            await asyncio.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311  (spreads the load of many informers)
            pause = min(pause * 2, BACKOFF_LONGEST)

    async def _follow(self) -> None:
        """Lists when there is no version to resume from, then watches until the server ends the watch."""
        if self._version is None:
            self._version = await self._list()
        watch = self._client.watch(
            self._path,
            resource_version=self._version,
            label_selector=self._label_selector,
            timeout_seconds=random.randint(240, 480),  # noqa: S311  (so that informers do not reconnect in step)
        )
        async for kind, found in watch:
            self._version = found["metadata"]["resourceVersion"]
            self.last_seen = time.monotonic()
            if kind != "BOOKMARK":
                self._store(found, gone=kind == "DELETED")

    async def _list(self) -> str:
        """Takes over a complete list and returns its version. Records that are no longer there go at the end."""
        listed: set[ObjectKey] = set()
        version = ""
        async for page in self._client.pages(self._path, label_selector=self._label_selector):
            version = page["metadata"]["resourceVersion"]
            for found in page.get("items") or []:
                listed.add(self._store(found))
        for key in self.records.keys() - listed:
            self._change(key, None)
        self.last_seen = time.monotonic()
        self.synced.set()
        return version

    def _store(self, found: dict[str, Any], *, gone: bool = False) -> ObjectKey:
        metadata = found["metadata"]
        key = ObjectKey(metadata.get("namespace", ""), metadata["name"])
        self._change(key, None if gone else self._project(found))
        return key

    def _change(self, key: ObjectKey, new: T | None) -> None:
        old = self.records.get(key)
        if new is None:
            self.records.pop(key, None)
        else:
            self.records[key] = new
        if self._on_change is not None and old != new:
            self._on_change(key, old, new)
