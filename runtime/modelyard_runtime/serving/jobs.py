"""Jobs that outlive the process: pulls of weights, as rows of a SQLite file that one process at a time owns.

All of it blocks, and is called from one thread at a time.
"""

from __future__ import annotations

import json
import sqlite3
import time
import uuid
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

_VERSION = 1
#: Jobs that have ended and are remembered; the oldest are forgotten first.
KEPT = 1000

_SCHEMA = """
CREATE TABLE jobs (
    id TEXT PRIMARY KEY, source TEXT NOT NULL, name TEXT, options TEXT NOT NULL, state TEXT NOT NULL, phase TEXT NOT NULL,
    bytes_done INTEGER NOT NULL, bytes_total INTEGER NOT NULL, reason TEXT, message TEXT, remedy TEXT,
    created REAL NOT NULL, updated REAL NOT NULL
);
CREATE TABLE models (name TEXT PRIMARY KEY, entry TEXT NOT NULL);
"""


class State(StrEnum):
    """What has become of a job. Queued and running ones are taken up again by the next process."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


OPEN = frozenset({State.QUEUED, State.RUNNING})


@dataclass(frozen=True, slots=True)
class Job:
    """A pull. ``name`` is what the model is called when it is there, None where it is only fetched; times are Unix seconds."""

    source: str
    name: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    id: str = field(default_factory=lambda: f"pull-{uuid.uuid4().hex[:12]}")
    state: State = State.QUEUED
    phase: str = ""
    bytes_done: int = 0
    bytes_total: int = 0
    reason: str | None = None
    message: str | None = None
    remedy: str | None = None
    created: float = field(default_factory=time.time)
    updated: float = field(default_factory=time.time)

    @property
    def open(self) -> bool:
        """Whether it is still to be done."""
        return self.state in OPEN

    def now(self, **changes: Any) -> Job:
        """Returns the job as it stands now."""
        return replace(self, updated=time.time(), **changes)


class StoreTaken(Exception):
    """Another process owns the file."""


class JobStore:
    """The file. Raises StoreTaken when another process has it, OSError or sqlite3.Error when it cannot be used."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(path.with_suffix(".lock"))
        try:
            self._lock.acquire(blocking=False)
        except Timeout as error:
            raise StoreTaken(str(path)) from error
        try:
            self._database = _open(path)
        except BaseException:
            self._lock.release()
            raise

    def jobs(self) -> list[Job]:
        """Returns all jobs, the oldest first."""
        names = [one.name for one in fields(Job)]
        rows = self._database.execute(f"SELECT {', '.join(names)} FROM jobs ORDER BY created, id")  # noqa: S608 - names of our own fields
        return [_job(dict(zip(names, row, strict=True))) for row in rows]

    def save(self, job: Job) -> None:
        """Writes a job, new or known, and forgets the oldest of too many that have ended."""
        row = asdict(job) | {"options": json.dumps(job.options)}
        marks = ", ".join(f":{name}" for name in row)
        with self._database:
            self._database.execute(f"INSERT OR REPLACE INTO jobs ({', '.join(row)}) VALUES ({marks})", row)  # noqa: S608
            self._database.execute(
                "DELETE FROM jobs WHERE state NOT IN ('queued', 'running') AND id NOT IN "
                "(SELECT id FROM jobs WHERE state NOT IN ('queued', 'running') ORDER BY created DESC LIMIT ?)",
                [KEPT],
            )

    def models(self) -> list[dict[str, Any]]:
        """Returns the entries of the models that were added while the process ran."""
        return [json.loads(entry) for (entry,) in self._database.execute("SELECT entry FROM models ORDER BY rowid")]

    def add_model(self, name: str, entry: dict[str, Any]) -> None:
        """Remembers a model."""
        with self._database:
            self._database.execute("INSERT OR REPLACE INTO models (name, entry) VALUES (?, ?)", [name, json.dumps(entry)])

    def remove_model(self, name: str) -> None:
        """Forgets a model."""
        with self._database:
            self._database.execute("DELETE FROM models WHERE name = ?", [name])

    def close(self) -> None:
        """Lets the file go."""
        self._database.close()
        self._lock.release()


def _open(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, check_same_thread=False)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        version = database.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            database.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;")
        elif version != _VERSION:
            raise sqlite3.DatabaseError(f"{path} was written by another version (format {version}, not {_VERSION}); remove it")
    except BaseException:
        database.close()
        raise
    return database


def _job(row: dict[str, Any]) -> Job:
    return Job(**row | {"state": State(row["state"]), "options": json.loads(row["options"])})
