"""What goes to a replica by the name in its body, what the gateway answers itself, and what it refuses."""

import json

import pytest
from modelyard.gateway.routes import PASSED
from modelyard_runtime.api.app import public_app
from modelyard_runtime.serving.runtime import Runtime
from modelyard_runtime.settings import ServeSettings

OLLAMA_CHAT = {"model": "assistant", "messages": []}


@pytest.mark.parametrize("path", sorted(path.decode() for path in PASSED))
async def test_all_that_a_runtime_answers_goes_to_one(gateway, replica, connect, path):
    one, other = await replica({"by": "one"}), await replica({"by": "other"})
    setup = await gateway(one, model={"aliases": ("gpt",)})
    client = await connect(setup)
    assert (await client.ask({"model": "gpt"}, path)).json() == {"by": "one"}
    assert (one.seen[0].target, one.seen[0].headers["x-modelyard-model"]) == (path, "assistant")
    assert other.seen == []


async def test_queries_stay_with_their_paths(gateway, replica, connect):
    one = await replica()
    client = await connect(await gateway(one))
    assert (await client.ask({"model": "assistant"}, "/tokenize?verbose=1")).status == 200
    assert one.seen[0].target == "/tokenize?verbose=1"


@pytest.mark.parametrize("path", ["/v1/pooling", "/v1/responses/one/cancel", "/v1/chat/completions/", "/v2/nope", "/api/blobs/sha256:0"])
async def test_a_path_that_there_is_not_wakes_no_model(gateway, connect, path):
    client = await connect(await gateway())  # without a replica, for which it would wait
    reply = await client.ask({"model": "assistant"}, path)
    assert (reply.status, b"Unknown path" in reply.body) == (404, True)


@pytest.mark.parametrize("path", sorted(path.decode() for path in PASSED))
async def test_a_wrong_method_is_told_from_a_wrong_path(gateway, connect, path):
    client = await connect(await gateway())
    await client.send(f"GET {path} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
    reply = await client.reply()
    assert reply.status == 405
    assert "use POST" in reply.body.decode()
    assert reply.headers["allow"] == "POST"
    await client.send(f"GET {path}x HTTP/1.1\r\nhost: a\r\n\r\n".encode())
    assert (await client.reply()).status == 404


@pytest.mark.parametrize(
    "case",
    [
        ("POST /api/pull", 403, "cannot be pulled here"),
        ("DELETE /api/delete", 403, "cannot be deleted here"),
        ("POST /api/create", 403, "cannot be created here"),
        ("POST /api/copy", 403, "cannot be copied here"),
        ("POST /api/push", 403, "cannot be pushed here"),
        ("POST /api/delete", 405, "use DELETE"),
        ("POST /api/tags", 405, "use GET"),
        ("GET /api/chat", 405, "use POST"),
        ("POST /api/nope", 404, "Unknown path /api/nope"),
        ("GET /api/", 404, "Unknown path /api/"),
        ("POST /api/chat", 400, "no body"),
    ],
)
async def test_errors_below_api_have_ollamas_shape(gateway, replica, connect, case):
    line, status, said = case
    client = await connect(await gateway(await replica()))
    await client.send(f"{line} HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n".encode())
    reply = await client.reply()
    assert (reply.status, set(reply.json())) == (status, {"error"})
    assert said in reply.json()["error"]


async def test_the_root_says_that_something_is_here(gateway, connect):
    client = await connect(await gateway())
    await client.send(b"HEAD / HTTP/1.1\r\nhost: a\r\n\r\n")
    assert (await client.reply(bodiless=True)).status == 200
    await client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
    assert (await client.reply()).body == b"Modelyard is running"


async def test_latest_is_any_name_of_ollamas_and_of_nobody_else(gateway, replica, connect):
    client = await connect(await gateway(await replica(), model={"aliases": ("gpt", "gpt:mini"), "adapters": ("sql",)}))
    for name in ("assistant:latest", "default/assistant:latest", "gpt:latest", "gpt:mini", "gpt:mini:latest", "assistant:sql"):
        assert (await client.ask({"model": name}, "/api/show")).status == 200, name
    missing = await client.ask({"model": "nope:latest"}, "/api/show")
    assert (missing.status, "'nope' does not exist" in missing.json()["error"]) == (404, True)
    assert (await client.ask({"model": "assistant:first"}, "/api/show")).status == 404
    assert (await client.ask({"model": "assistant:latest"}, "/v1/chat/completions")).status == 404


async def test_a_model_named_latest_is_itself(gateway, replica, connect):
    own = await replica({"by": "own"})
    setup = await gateway(await replica(), model={"aliases": ("gpt",)})
    setup.directory.set_model(type(setup.directory.resolve("gpt"))("default/other", aliases=("gpt:latest",)))
    setup.directory.set_endpoints("default/other", frozenset({own.endpoint}))
    client = await connect(setup)
    assert (await client.ask({"model": "gpt:latest"}, "/api/chat")).json() == {"by": "own"}


@pytest.mark.parametrize("stream", [{"stream": True}, {}])
async def test_ollamas_streams_are_kept_alive_by_what_json_lets_be(gateway, replica, connect, stream):
    async def behave(_seen, writer):
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n")
        writer.write(b'd\r\n{"done":true}\r\n1\r\n\n\r\n0\r\n\r\n')

    one = await replica(behave)
    setup = await gateway(model={"keepalive": 0.05})
    client = await connect(setup)
    await client.post(OLLAMA_CHAT | stream, "/api/chat")
    status, headers = await client.head()
    assert (status, headers["content-type"]) == (200, "application/x-ndjson")
    assert [await client.chunk() for _ in range(2)] == [b" ", b" "]
    setup.point(one)
    rest = b""
    while piece := await client.chunk():
        rest += piece
    assert rest.endswith(b'{"done":true}\n')
    assert [json.loads(line) for line in rest.splitlines()] == [{"done": True}]


@pytest.mark.parametrize(("path", "body"), [("/api/chat", {"stream": False}), ("/api/embed", {"input": "x"}), ("/api/show", {})])
async def test_whole_answers_are_waited_for_in_silence(gateway, connect, path, body):
    client = await connect(await gateway(model={"keepalive": 0.02, "max_wait": 0.2}))
    reply = await client.ask({"model": "assistant"} | body, path)
    assert (reply.status, set(reply.json()), "retry-after" in reply.headers) == (503, {"error"}, True)


async def test_an_error_after_a_keepalive_is_a_line(gateway, connect):
    client = await connect(await gateway(model={"keepalive": 0.05, "max_wait": 0.15}))
    reply = await client.ask(OLLAMA_CHAT, "/api/chat")
    assert (reply.status, reply.complete, len(reply.body.splitlines())) == (200, True, 1)
    assert "became ready" in json.loads(reply.body)["error"]


async def test_a_whole_answer_after_a_keepalive_is_a_line(gateway, replica, connect):
    """As to a request without messages, which only loads the model."""
    setup = await gateway(model={"keepalive": 0.02})
    client = await connect(setup)
    await client.post(OLLAMA_CHAT, "/api/chat")
    await client.head()
    setup.point(await replica({"done": True, "done_reason": "load"}))
    body = b""
    while piece := await client.chunk():
        body += piece
    assert json.loads(body) == {"done": True, "done_reason": "load"}
    assert body.endswith(b"\n")


@pytest.mark.parametrize("part", [b'{"done":false}\n', b""])
async def test_a_replica_that_dies_in_a_stream_is_a_last_line(gateway, replica, connect, part):
    async def behave(_seen, writer):
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n")
        if part:
            writer.write(b"%x\r\n%b\r\n" % (len(part), part))
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    client = await connect(await gateway(await replica(behave)))
    reply = await client.ask(OLLAMA_CHAT, "/api/generate")
    *before, last = reply.body.splitlines()
    assert (before, reply.complete) == (part.splitlines(), False)
    assert "The replica that served the request failed" in json.loads(last)["error"]


async def test_what_a_stopping_replica_refuses_goes_to_another(gateway, replica, connect):
    """Ollama's errors have no code; a header says that the replica stops."""

    async def stopping(_seen, writer):
        body = b'{"error":"This server is stopping."}'
        head = b"HTTP/1.1 503 X\r\ncontent-type: application/json\r\nx-modelyard-error-code: draining\r\ncontent-length: %d\r\n\r\n"
        writer.write(head % len(body) + body)

    setup = await gateway(await replica(stopping), model={"max_wait": 5.0})
    client = await connect(setup)
    await client.post(OLLAMA_CHAT | {"stream": False}, "/api/chat")
    setup.point(await replica({"done": True}))
    assert (await client.reply()).json() == {"done": True}


async def test_no_path_of_a_runtime_is_missing():
    """What it answers to a POST is passed on, or is what only a runtime's own operator may do."""
    application = public_app(Runtime(ServeSettings(model="builtin://tiny-chat")))
    posted = {route.path for route in application._routes if "POST" in route.methods}
    assert posted - {path.decode() for path in PASSED} == {"/api/pull", "/v1/responses/{name:path}"}
    assert {path.decode() for path in PASSED} <= posted
