"""``/admin`` on the private port: load, unload, pull, list and cancel; what the process holds and runs on."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import platform
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any

import psutil
from fastapi import APIRouter, Request
from fastapi.responses import Response
from modelyard.api.errors import ApiError, Forbidden, InvalidRequest

from modelyard_runtime import hardware
from modelyard_runtime.api import sse
from modelyard_runtime.api.access import runtime_of
from modelyard_runtime.api.responses import json_response
from modelyard_runtime.api.route import StrictRoute
from modelyard_runtime.errors import ArgumentsInvalid
from modelyard_runtime.serving import memory
from modelyard_runtime.serving.catalogue import Entry
from modelyard_runtime.serving.jobs import Job
from modelyard_runtime.serving.model import ServedModel
from modelyard_runtime.serving.pulls import NotAllowed
from modelyard_runtime.serving.runtime import Runtime
from modelyard_runtime.sources.resolve import shares

router = APIRouter(prefix="/admin", route_class=StrictRoute)

_UNLOAD_SECONDS = 30.0
_PACKAGES = ("modelyard", "torch", "transformers", "tokenizers", "safetensors", "huggingface-hub", "fastapi", "uvicorn")
_STARTED = time.time()


class Conflict(ApiError):
    """What is asked for does not go together with how things stand."""

    status, type, default_code = 409, "invalid_request_error", "conflict"


class NoSuchPull(ApiError):
    """No pull has that id."""

    status, type, default_code = 404, "invalid_request_error", "pull_not_found"


class PullBody(Entry):
    """A pull: a model as in a catalogue. ``serve``: whether it may be asked for once it is there."""

    serve: bool = True


@router.get("/models")
async def models(request: Request) -> Response:
    """Lists the models and how they stand."""
    return json_response({"object": "list", "data": [_model(model) for model in runtime_of(request).registry.models]})


@router.get("/models/{name:path}")
async def model(request: Request, name: str) -> Response:
    """Describes a model. Raises ModelNotFound."""
    return json_response(_model(runtime_of(request).registry.named(name)))


@router.post("/models/{name:path}/load")
async def load(request: Request, name: str, wait: bool = False) -> Response:
    """Begins to load a model, at once even after a failure; with ``wait``, answers when that has ended. Raises ModelNotFound."""
    registry = runtime_of(request).registry
    served = registry.named(name)
    if not served.loaded:
        task = registry.load(served)
        if wait:
            await asyncio.wait({task})
    return json_response(_model(served), 200 if served.loaded else 202)


@router.post("/models/{name:path}/unload")
async def unload(request: Request, name: str) -> Response:
    """Unloads a model when the requests that use it have ended. Raises ModelNotFound, or Conflict when they take too long."""
    registry = runtime_of(request).registry
    served = registry.named(name)
    await _idle(served)
    await registry.unload(served, "asked for")
    return json_response(_model(served))


@router.delete("/models/{name:path}")
async def delete(request: Request, name: str) -> Response:
    """Removes a model that came by a pull, and its weights unless others share them. Raises ModelNotFound or Conflict."""
    runtime = runtime_of(request)
    served = runtime.registry.named(name)
    await remove_model(runtime, served)
    return json_response({"id": served.name, "object": "model", "deleted": True})


async def remove_model(runtime: Runtime, served: ServedModel) -> None:
    """Removes a pulled model, unloads it, and removes its weights.

    Raises Conflict where flags or a catalogue named it, ModelNotFound where another request has removed it meanwhile.
    """
    if served.spec.origin != "pull":
        raise Conflict(f"'{served.name}' is named by the {served.spec.origin} of this server, not by a pull. Remove it there.")
    await _idle(served)
    runtime.registry.remove(served)  # before it ends: a request that came meanwhile would load it again
    await runtime.registry.unload(served, "removed")
    await runtime.pulls.forget_model(served.name)
    source = served.spec.settings.source
    if not any(shares(other.spec.settings.source, source, runtime.settings.cache_dir) for other in runtime.registry.models):
        await runtime.pulls.remove(source)


@router.post("/pulls")
async def create_pull(request: Request, body: PullBody) -> Response:
    """Begins to pull a source, or returns the pull of it that goes on. Raises InvalidRequest, Forbidden, Conflict or Unavailable."""
    entry = Entry.model_validate(body.model_dump(exclude={"serve"}, exclude_unset=True))
    job, new = await begin_pull(runtime_of(request), entry, serve=body.serve)
    return json_response(_job(job), 202 if new else 200)


async def begin_pull(runtime: Runtime, entry: Entry, *, serve: bool) -> tuple[Job, bool]:
    """Returns the pull of an entry's source, and whether it is new. Raises InvalidRequest, Forbidden, Conflict or Unavailable."""
    try:
        with source_refusals(runtime):
            return await runtime.pulls.create(entry, serve=serve)
    except ValueError as error:
        raise Conflict(f"The name '{error}' is taken by another source. Give another 'name'.", param="name") from error


@contextmanager
def source_refusals(runtime: Runtime) -> Iterator[None]:
    """Raises InvalidRequest or Forbidden for what is wrong with a request's source."""
    try:
        yield
    except ArgumentsInvalid as error:
        raise InvalidRequest(f"Invalid 'source': {error.message.removeprefix('--model: ')}; {error.remedy}.", param="source") from error
    except NotAllowed:
        allowed = ", ".join(runtime.settings.allow_pull) or "nothing"
        raise Forbidden(f"This server may pull {allowed}. Its --allow-pull would have to name the source.", param="source") from None


@router.get("/pulls")
async def pulls(request: Request) -> Response:
    """Lists the pulls, the oldest first."""
    return json_response({"object": "list", "data": [_job(job) for job in await runtime_of(request).pulls.all()]})


@router.get("/pulls/{identity}")
async def pull(request: Request, identity: str, stream: bool = False) -> Response:
    """Describes a pull; with ``stream``, as events whenever it changes, until it has ended. Raises NoSuchPull."""
    job = await _pull(request, identity)
    return sse.EventStream(_events(runtime_of(request), job)) if stream else json_response(_job(job))


@router.delete("/pulls/{identity}")
async def cancel_pull(request: Request, identity: str) -> Response:
    """Cancels a pull; what was fetched stays for the next attempt. Raises NoSuchPull."""
    return json_response(_job(await runtime_of(request).pulls.cancel(await _pull(request, identity))))


@router.get("/stats")
async def stats(request: Request) -> Response:
    """Returns what the process holds and does."""
    runtime = runtime_of(request)
    usage = await asyncio.to_thread(psutil.Process().memory_info)
    loads = {model.name: asdict(model.service.load()) for model in runtime.registry.models if model.service is not None}
    by_state: dict[str, int] = {}
    for job in await runtime.pulls.all():
        by_state[str(job.state)] = by_state.get(str(job.state), 0) + 1
    held = {"resident": usage.rss, "models": runtime.registry.used, "budget": runtime.registry.budget}
    return json_response({"uptime": round(time.time() - _STARTED, 3), "memory": held, "models": loads, "pulls": by_state})


@router.get("/diagnostics")
async def diagnostics(request: Request) -> Response:
    """Returns what the process runs on and with: devices, memory, versions, how models are computed, parts, settings without secrets."""
    runtime = runtime_of(request)
    settings = runtime.settings
    engines = {model.name: model.engine for model in runtime.registry.models if model.engine is not None}
    tasks = Counter(_running(task) for task in asyncio.all_tasks())
    held, parts = await asyncio.gather(asyncio.to_thread(memory.held), asyncio.to_thread(_parts))
    return json_response(
        {
            "versions": {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
            "platform": platform.platform(),
            "processor": {"cores": hardware.usable_cores(), "threads": os.cpu_count(), "matrixUnits": hardware.has_matrix_units()},
            "memory": {
                "limit": hardware.memory_limit(),
                "available": hardware.available_memory(),
                "held": held,
            },
            "devices": _devices(),
            "engines": engines,
            "process": {"tasks": dict(sorted(tasks.items())), **parts},
            "settings": settings.model_dump(mode="json"),
        }
    )


async def _idle(served: ServedModel) -> None:
    try:
        async with asyncio.timeout(_UNLOAD_SECONDS):
            while served.users:  # another request may have come before this one was woken
                await served.idle.wait()
    except TimeoutError:
        raise Conflict(f"{served.users} requests use '{served.name}'. Send this again when they have ended.", code="model_busy") from None


async def _pull(request: Request, identity: str) -> Job:
    job = await runtime_of(request).pulls.get(identity)
    if job is None:
        raise NoSuchPull(f"There is no pull '{identity[:100]}'. See /admin/pulls.")
    return job


async def _events(runtime: Runtime, job: Job) -> AsyncIterator[bytes]:
    async for state in runtime.pulls.follow(job):
        yield sse.event(_job(state))


def _model(model: ServedModel) -> dict[str, Any]:
    failure = model.lifecycle.failure
    told = failure and {"reason": failure.reason, "message": failure.message, "remedy": failure.remedy}
    wait = max(0.0, model.retry_at - time.monotonic())
    return {
        **model.describe(),
        "source": model.spec.settings.source,
        "origin": model.spec.origin,
        "pinned": model.spec.pinned,
        "memory": model.memory if model.service is not None else 0,
        "users": model.users,
        "idle_seconds": 0.0 if model.users else round(time.monotonic() - model.last_used, 3),
        "failure": told and {**told, "retry_after": round(wait, 3)},
        "seconds": model.lifecycle.seconds,
    }


def _job(job: Job) -> dict[str, Any]:
    share = min(job.bytes_done / job.bytes_total, 1.0) if job.bytes_total else None
    return {"object": "pull", **asdict(job), "fraction": share}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _running(task: asyncio.Task[Any]) -> str:
    """Returns what a task runs, as its source names it."""
    coroutine = task.get_coro()
    return getattr(coroutine, "__qualname__", type(coroutine).__name__)


def _parts() -> dict[str, Any]:
    """Returns the process's threads and open files by number, and each process that it has started, with its bytes of memory."""
    process = psutil.Process()
    children = []
    for child in process.children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it has ended since
            children.append({"pid": child.pid, "runs": _program(child), "resident": child.memory_info().rss})
    return {"threads": process.num_threads(), "files": process.num_fds(), "children": children}


def _program(process: psutil.Process) -> str:
    """Returns the module that a process of Python's runs, or its name. Arguments are left out: they may hold secrets."""
    words = process.cmdline()
    return words[words.index("-m") + 1] if "-m" in words[:-1] else process.name()


def _devices() -> list[dict[str, Any]]:
    """Returns the devices that PyTorch sees; none before a model has been loaded, for that is what imports it."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    found = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        found.append({"name": torch.cuda.get_device_name(index), "memory": total, "free": free})
    return found
