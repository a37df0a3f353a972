"""The models that exist, as kopf tells them: kept as bytes, because parsed they would be ten times as large, and by every name
that they claim.
"""

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import orjson

from modelyard.api.inference_model import InferenceModel
from modelyard.api.names import child_name
from modelyard.controller.types import Key

_METADATA = ("name", "namespace", "uid", "generation", "resourceVersion", "creationTimestamp", "deletionTimestamp")


class Stored(NamedTuple):
    """A model as it was last seen. ``version`` is its resourceVersion, ``told`` its generation and whether it is being deleted."""

    uid: str
    blob: bytes
    version: int
    told: tuple[int, bool]
    created: str
    names: tuple[str, ...]


class Models:
    """Every model by key, by the name of its children, and by the names that clients may call it."""

    def __init__(self) -> None:
        self._stored: dict[Key, Stored] = {}
        self._by_child: dict[tuple[str, str], Key] = {}
        self._claims: dict[str, dict[Key, str]] = {}
        self._echoes: dict[Key, tuple[int, float]] = {}  # own writes that the watch has not brought back: version and time

    def __len__(self) -> int:
        return len(self._stored)

    def __contains__(self, key: Key) -> bool:
        return key in self._stored

    def __iter__(self) -> Iterator[Key]:
        return iter(tuple(self._stored))

    def get(self, key: Key) -> InferenceModel | None:
        """Returns a model, or None; raises pydantic's ValidationError for one that a newer API server let in."""
        stored = self._stored.get(key)
        return None if stored is None else InferenceModel.model_validate(orjson.loads(stored.blob))

    def raw(self, key: Key) -> dict[str, Any]:
        """Returns a model's object as stored; raises KeyError."""
        raw: dict[str, Any] = orjson.loads(self._stored[key].blob)
        return raw

    def put(self, raw: dict[str, Any]) -> set[Key]:
        """Stores a model as the API server sent it and returns the keys that have to be looked at again.

        That is none for what is already known, as the echo of our own status. Versions of one object grow.
        """
        key, new = key_of(raw), _stored(raw)
        old = self._stored.get(key)
        if old is not None and new.version <= old.version:
            return set()
        if old is not None and old.uid != new.uid:  # made anew while the watch was broken: an age of its own, and nothing told yet
            return self.remove(key) | self.put(raw)
        self._stored[key] = new
        self._by_child[key.namespace, child_name(key.name)] = key
        touched = {key} if old is None or old.told != new.told else set()
        return touched | self._claim(key, old.names if old else (), new.names, new.created)

    def wrote(self, raw: dict[str, Any]) -> None:
        """Stores a model as a write of ours returned it, before its event arrives.

        Not one that was deleted meanwhile, nor its successor: no event need follow to forget the one or to look at the other.
        """
        known = self._stored.get(key_of(raw))
        if known is None or known.uid != raw["metadata"]["uid"]:
            return
        self._echoes.setdefault(key_of(raw), (int(raw["metadata"]["resourceVersion"]), time.monotonic()))
        self.put(raw)

    def seen(self, kind: str, raw: dict[str, Any]) -> set[Key]:
        """Takes over an event of the watch and returns the keys to look at again; listed models come with an empty ``kind``."""
        key = key_of(raw)
        version, _ = self._echoes.get(key, (0, 0.0))
        if kind == "DELETED" or int(raw["metadata"]["resourceVersion"]) >= version:
            self._echoes.pop(key, None)
        return self.remove(key) if kind == "DELETED" else self.put(raw)

    @property
    def echo_age(self) -> float:
        """Seconds that the watch has owed us an event of our own making; 0.0 when it owes none."""
        now = time.monotonic()
        return now - min((since for _, since in self._echoes.values()), default=now)

    def remove(self, key: Key) -> set[Key]:
        """Forgets a model and returns it with those that its names are now free for."""
        self._echoes.pop(key, None)
        old = self._stored.pop(key, None)
        if old is None:
            return set()
        self._by_child.pop((key.namespace, child_name(key.name)), None)
        return {key} | self._claim(key, old.names, (), "")

    def by_child(self, namespace: str, label: str) -> Key | None:
        """Returns the model whose children carry this value of the model label."""
        return self._by_child.get((namespace, label))

    def conflict(self, key: Key) -> str | None:
        """Returns a sentence naming the older model that holds one of this model's names, and the remedy; None when all are free."""
        stored = self._stored[key]
        for name in stored.names:
            claims = self._claims[name]
            oldest = min(claims, key=lambda claimant: (claims[claimant], claimant))
            if oldest != key:
                return (
                    f"The name {name!r} belongs to the older model {oldest}. This one runs and is reachable as {key}; "
                    "rename it or remove the alias to be reachable by a name of its own."
                )
        return None

    def _claim(self, key: Key, before: tuple[str, ...], after: tuple[str, ...], created: str) -> set[Key]:
        """Moves a model's claims and returns the other claimants of the names that changed hands."""
        changed = set(before) ^ set(after)
        touched: set[Key] = set()
        for name in set(before) - set(after):
            self._claims[name].pop(key, None)
            touched |= self._claims[name].keys()
            if not self._claims[name]:
                del self._claims[name]
        for name in set(after) & changed:
            claims = self._claims.setdefault(name, {})
            touched |= claims.keys()
            claims[key] = created
        return touched


def key_of(raw: dict[str, Any]) -> Key:
    """Returns the key of an object."""
    return Key(raw["metadata"].get("namespace", ""), raw["metadata"]["name"])


def _stored(raw: dict[str, Any]) -> Stored:
    metadata = raw["metadata"]
    kept = {name: metadata[name] for name in _METADATA if name in metadata}
    slim = {"apiVersion": raw["apiVersion"], "kind": raw["kind"], "metadata": kept, "spec": raw.get("spec", {})}
    if raw.get("status"):
        slim["status"] = raw["status"]
    aliases = raw.get("spec", {}).get("model", {}).get("aliases", ())
    return Stored(
        uid=metadata["uid"],
        blob=orjson.dumps(slim),
        version=int(metadata["resourceVersion"]),
        told=(metadata.get("generation", 1), "deletionTimestamp" in metadata),
        created=metadata["creationTimestamp"],
        names=(metadata["name"], *aliases),
    )
