"""Real sockets on loopback: a gateway in the test's event loop, replicas that behave as told, and a client that speaks bytes."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvloop
from modelyard.gateway.directory import Directory
from modelyard.gateway.server import Gateway, serve
from modelyard.gateway.settings import GatewaySettings
from modelyard.gateway.types import Endpoint, ModelRecord

KEY = "default/assistant"
PATIENCE = 20.0


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop that serves in production."""
    return {"uvloop": uvloop.new_event_loop}


@dataclass
class Seen:
    """A request as a replica saw it."""

    method: str
    target: str
    headers: dict[str, str]
    raw_head: bytes
    body: bytes


Behaviour = Callable[[Seen, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Replica:
    """An upstream. ``behave`` writes the answer; returning keeps the connection, raising ConnectionError resets it."""

    behave: Behaviour
    seen: list[Seen] = field(default_factory=list)
    connections: int = 0
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    server: asyncio.Server | None = None
    endpoint: Endpoint = field(default_factory=lambda: Endpoint("127.0.0.1", 0))
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    async def start(self) -> None:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.endpoint = Endpoint("127.0.0.1", self.server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Stops to listen and resets what is open."""
        assert self.server is not None
        self.server.close()
        for writer in list(self._writers):
            writer.transport.abort()
            await asyncio.gather(writer.wait_closed(), return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            while True:
                seen = await _read_request(reader)
                self.seen.append(seen)
                self.arrived.set()
                watch = asyncio.ensure_future(self.behave(seen, writer))
                gone = asyncio.ensure_future(_end_of(reader))
                await asyncio.wait((watch, gone), return_when=asyncio.FIRST_COMPLETED)
                gone.cancel()
                if not watch.done():
                    watch.cancel()
                    return
                watch.result()
                if writer.is_closing():
                    return
        except asyncio.IncompleteReadError:
            return
        except ConnectionError:
            writer.transport.abort()
        finally:
            self._writers.discard(writer)
            writer.transport.abort()
            self.left.set()


async def _end_of(reader: asyncio.StreamReader) -> None:
    """Waits until the gateway has closed, without taking a byte of its next request away."""
    while not reader.at_eof():  # noqa: ASYNC110  (streams tell the end only to those who read)
        await asyncio.sleep(0.01)


async def _read_request(reader: asyncio.StreamReader) -> Seen:
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")[:-2]
    method, target, _ = first.split(" ")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Seen(method, target, headers, head, body)


def answering(document: object, status: int = 200) -> Behaviour:
    body = json.dumps(document).encode()

    async def behave(_seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body))
        await writer.drain()

    return behave


@pytest.fixture
async def replica() -> AsyncIterator[Callable[..., Awaitable[Replica]]]:
    """Starts replicas; the default one answers with the JSON `{"ok": true}`."""
    started: list[Replica] = []

    async def start(behave: Behaviour | object = None, status: int = 200) -> Replica:
        one = Replica(behave if callable(behave) else answering({"ok": True} if behave is None else behave, status))
        await one.start()
        started.append(one)
        return one

    yield start
    for one in started:
        await one.stop()


@pytest.fixture
async def raw_server() -> AsyncIterator[Callable[..., Awaitable[Endpoint]]]:
    """Starts servers that are one coroutine over a reader and a writer, for what no replica would do; `port` 0 takes a free one."""
    servers: list[asyncio.Server] = []
    writers: list[asyncio.StreamWriter] = []

    async def start(serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], port: int = 0) -> Endpoint:
        async def tracked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers.append(writer)
            await serve(reader, writer)

        server = await asyncio.start_server(tracked, "127.0.0.1", port)
        servers.append(server)
        return Endpoint("127.0.0.1", server.sockets[0].getsockname()[1])

    yield start
    for server in servers:
        server.close()
    for writer in writers:
        writer.transport.abort()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


@dataclass
class Setup:
    """A gateway and the directory that feeds it, with one model under KEY."""

    gateway: Gateway
    directory: Directory

    def point(self, *replicas: Replica) -> None:
        self.directory.set_endpoints(KEY, frozenset(one.endpoint for one in replicas))

    def model(self, **fields: Any) -> None:
        self.directory.set_model(ModelRecord(KEY, **fields))


@pytest.fixture
async def gateway() -> AsyncIterator[Callable[..., Awaitable[Setup]]]:
    """Starts gateways before replicas; keyword arguments are settings."""
    started: list[Gateway] = []

    async def start(*replicas: Replica, model: dict[str, Any] | None = None, **settings: Any) -> Setup:
        directory = Directory()
        given = {"host": "127.0.0.1", "port": 0, "private_port": 0, "settle_time": "0s", "access_log": False} | settings
        setup = Setup(await serve(GatewaySettings(**given), directory, ready=lambda: True), directory)
        setup.model(**(model or {}))
        setup.point(*replicas)
        started.append(setup.gateway)
        return setup

    yield start
    for one in started:
        await one.close()


@dataclass
class Reply:
    """An answer as a client saw it; ``complete`` says whether its framing ended properly."""

    status: int
    headers: dict[str, str]
    body: bytes
    complete: bool = True

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        error = self.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert isinstance(error["message"], str)
        return dict(error)


class Client:
    """A client that speaks bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def post(self, document: object, path: str = "/v1/chat/completions", headers: str = "") -> None:
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        head = f"POST {path} HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n{headers}\r\n"
        await self.send(head.encode() + body)

    async def ask(self, document: object, path: str = "/v1/chat/completions", headers: str = "") -> Reply:
        await self.post(document, path, headers)
        return await self.reply()

    async def head(self) -> tuple[int, dict[str, str]]:
        async with asyncio.timeout(PATIENCE):
            raw = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = raw.split("\r\n")[:-2]
        return int(first.split(" ")[1]), {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}

    async def reply(self, *, bodiless: bool = False) -> Reply:
        status, headers = await self.head()
        reply = Reply(status, headers, b"")
        try:
            async with asyncio.timeout(PATIENCE):
                if bodiless or status < 200:
                    return reply
                if "content-length" in headers:
                    reply.body = await self.reader.readexactly(int(headers["content-length"]))
                elif headers.get("transfer-encoding") == "chunked":
                    while data := await self.chunk():
                        reply.body += data
                else:
                    reply.body = await self.reader.read()
        except asyncio.IncompleteReadError as error:
            reply.complete = False
            reply.body += error.partial
        return reply

    async def chunk(self) -> bytes:
        async with asyncio.timeout(PATIENCE):
            size = int(await self.reader.readuntil(b"\r\n"), 16)
            return (await self.reader.readexactly(size + 2))[:-2]

    async def ended(self) -> bytes:
        """Returns what comes until the gateway closes."""
        async with asyncio.timeout(PATIENCE):
            return await self.reader.read()

    def leave(self) -> None:
        self.writer.transport.abort()


@pytest.fixture
async def connect() -> AsyncIterator[Callable[[Setup], Awaitable[Client]]]:
    clients: list[Client] = []

    async def open_one(setup: Setup) -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", setup.gateway.port))
        clients.append(client)
        return client

    yield open_one
    for client in clients:
        client.leave()
        await asyncio.gather(client.writer.wait_closed(), return_exceptions=True)


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], Awaitable[None]]:
    """Waits for a condition, giving way to the event loop."""

    async def wait(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():  # noqa: ASYNC110  (what is waited for has no event of its own)
                await asyncio.sleep(0.005)

    return wait
