"""kopf's part: it starts and stops the operator, keeps the watch of InferenceModels and hands each event on; nothing else.

It posts no events, writes no annotations or finalizers, and its handlers only store a record and mark a key: with more than that
it would not follow thousands of models.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import aiohttp
import kopf

from modelyard.api.names import GROUP, PLURAL, VERSION
from modelyard.kube import credentials

if TYPE_CHECKING:
    from modelyard.controller.process import Operator


class Backoffs:
    """Pauses between attempts to reach the API server, in seconds, without end: its absence must not end the operator."""

    def __iter__(self) -> Iterator[float]:
        yield from (0.2, 0.5, 1.0, 2.0)
        while True:
            yield 3.0


async def run(operator: "Operator", watch_namespace: str) -> None:
    """Runs until SIGTERM or SIGINT; raises whatever ended it otherwise."""
    everywhere = not watch_namespace
    identity: Any = operator.settings.identity  # kopf would ask for the user's name, and the user of a pod has none
    await kopf.operator(
        registry=registry(operator),
        standalone=True,
        clusterwide=everywhere,
        namespaces=() if everywhere else (watch_namespace,),
        identity=identity,
    )


def registry(operator: "Operator") -> kopf.OperatorRegistry:
    """Returns the handlers of one operator."""
    handlers = kopf.OperatorRegistry()

    @kopf.on.startup(registry=handlers)
    async def start(settings: kopf.OperatorSettings, **_: Any) -> None:
        configure(settings)
        await operator.start()

    @kopf.on.cleanup(registry=handlers)
    async def stop(**_: Any) -> None:
        await operator.stop()

    @kopf.on.login(registry=handlers)
    async def login(**_: Any) -> kopf.AiohttpSession:
        return session(credentials.find())

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=handlers)
    async def seen(event: kopf.RawEvent, **_: Any) -> None:
        operator.model_seen(event["type"] or "", dict(event["object"]))

    return handlers


def configure(settings: kopf.OperatorSettings) -> None:
    """Sets kopf to follow many objects and to write nothing. The two queueing values belong together: a worker ends at once.

    Its timer that kills the process after a run has ended is off: it would kill the run that follows a deletion of the CRD. The
    kubelet ends a process that hangs.
    """
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.queueing.worker_limit = 100
    settings.queueing.idle_timeout = 0.001
    settings.watching.chunk_size = 500
    settings.networking.error_backoffs = Backoffs()
    settings.process.ultimate_exiting_timeout = None


def session(found: credentials.Credentials) -> kopf.AiohttpSession:
    """Returns kopf's connection with the credentials of our own client; tokens are read anew as they rotate."""

    async def authenticate(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        request.headers.update(await found.headers())
        return await handler(request)

    connector = aiohttp.TCPConnector(limit=0, ssl=True if found.tls is None else found.tls)
    return kopf.AiohttpSession(
        server=found.server, aiohttp_session=aiohttp.ClientSession(connector=connector, middlewares=(authenticate,), proxy=found.proxy)
    )
