"""A line for each request, in the shape of the other logs."""

import json
import logging
from datetime import UTC, datetime

from modelyard.process.logs import JsonFormatter, timestamp


async def test_a_request_is_one_line(gateway, replica, connect, capfd):
    setup = await gateway(await replica(), access_log=True)
    client = await connect(setup)
    before = timestamp(datetime.now(UTC).timestamp())
    await client.ask({"model": "assistant", "messages": []})
    await client.ask({"model": "nope"})
    await setup.gateway.close()
    answered, missing = (json.loads(line) for line in capfd.readouterr().out.splitlines())
    assert before <= answered["time"] <= missing["time"] <= timestamp(datetime.now(UTC).timestamp())
    assert (answered["logger"], answered["status"], answered["model"]) == ("access", 200, "default/assistant")
    assert (missing["status"], missing["model"], missing["endpoint"]) == (404, None, None)
    assert "'nope' does not exist" in missing["error"]


def test_a_record_is_one_line_of_the_same_shape():
    try:
        raise OSError("boom\nand more")
    except OSError as error:
        told = (type(error), error, error.__traceback__)
    record = logging.makeLogRecord(
        {"name": "x", "levelname": "ERROR", "msg": "no %s", "args": ("way",), "created": 0.25, "why": "ü", "exc_info": told}
    )
    line = JsonFormatter().format(record)
    assert "\n" not in line
    said = json.loads(line)
    assert said.pop("exception").endswith("boom\nand more")
    assert said == {"time": "1970-01-01T00:00:00.250+00:00", "level": "error", "logger": "x", "message": "no way", "why": "ü"}


def test_what_a_client_named_gives_a_terminal_no_command_and_ends_no_line():
    named = "a\x9b31m\x7f\u2028\u202eb ü …"
    line = JsonFormatter().format(logging.makeLogRecord({"name": "x", "levelname": "INFO", "msg": "request", "path": named}))
    assert line.isprintable()
    assert "ü …" in line
    assert json.loads(line)["path"] == named
