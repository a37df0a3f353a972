"""``/api/pull`` and ``/api/delete``: what models the server has, where its clients may change that."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator

from fastapi import APIRouter, Request
from fastapi.responses import Response
from modelyard.api.errors import ApiError, BadGateway, InternalError, InvalidRequest, ModelNotFound
from modelyard.api.reasons import Reason

from modelyard_runtime.api.access import runtime_of
from modelyard_runtime.api.admin import begin_pull, remove_model
from modelyard_runtime.api.ollama.bodies import DeleteBody, PullBody
from modelyard_runtime.api.ollama.lines import LineStream, line
from modelyard_runtime.api.ollama.names import check_admin, plain
from modelyard_runtime.api.responses import json_response
from modelyard_runtime.api.route import UntypedRoute
from modelyard_runtime.serving.catalogue import Entry
from modelyard_runtime.serving.jobs import Job, State
from modelyard_runtime.serving.runtime import Runtime

router = APIRouter(route_class=UntypedRoute)

_HUB = re.compile(r"(?:https?://)?(?:hf\.co|huggingface\.co)/([\w.-]+/[\w.-]+?)(?::latest)?")


@router.post("/api/pull")
async def pull(request: Request, body: PullBody) -> Response:
    """Pulls a model from its source and serves it, telling how far it has come unless told otherwise."""
    check_admin(request, "pull models")
    runtime = runtime_of(request)
    if runtime.registry.find(plain(request, body.model)) is not None:
        return json_response({"status": "success"})
    job, _ = await begin_pull(runtime, Entry(source=source_of(body.model)), serve=True)
    if body.stream is not False:
        return LineStream(_progress(runtime, job))
    async for state in runtime.pulls.follow(job):
        job = state
    _check(job)
    return json_response({"status": "success"})


@router.delete("/api/delete")
async def delete(request: Request, body: DeleteBody) -> Response:
    """Removes a model that was pulled, and its weights."""
    check_admin(request, "delete models")
    await remove_model(runtime_of(request), runtime_of(request).registry.named(plain(request, body.model)))
    return Response(status_code=200)


def source_of(name: str) -> str:
    """Returns the source that a name means. Raises InvalidRequest on one of Ollama's own library, which is not here."""
    hub = _HUB.fullmatch(name)
    if hub is not None:
        return f"hf://{hub[1]}"
    if "://" not in name:
        raise InvalidRequest(f"'{name[:100]}' is no source. Pull hf.co/org/name, hf://org/name or builtin://name.", param="model")
    return name


async def _progress(runtime: Runtime, job: Job) -> AsyncGenerator[bytes, None]:
    yield line({"status": "pulling manifest"})
    async for state in runtime.pulls.follow(job):
        job = state
        if job.open and job.bytes_total:
            yield line({"status": f"pulling {job.source}", "digest": job.id, "total": job.bytes_total, "completed": job.bytes_done})
        elif job.open and job.phase:
            yield line({"status": job.phase})
    _check(job)
    yield line({"status": "success"})


#: What a client gets when a pull failed for a cause that is not this server's.
_FAILURES: dict[str, type[ApiError]] = {Reason.WEIGHTS_NOT_FOUND: ModelNotFound, Reason.DOWNLOAD_FAILED: BadGateway}


def _check(job: Job) -> None:
    """Raises what a pull that did not succeed ended with."""
    if job.state is State.DONE:
        return
    ended = "failed" if job.state is State.FAILED else "was cancelled"
    why = f": {job.message}" if job.message else ""
    text = f"The pull {ended}{why}. {_sentence(job.remedy or 'try again')}."
    raise _FAILURES.get(job.reason or "", InternalError)(text)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
