"""`modelyard up` with the real runtime, from the first answer to the last process."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading

import httpx
import openai
import pytest
import yaml

SCALE = "  scaling: {minReplicas: 0, scaleDownDelay: 1s}\n"


def write_tiny(cli, more="", name="tiny"):
    source = 'apiVersion: modelyard.dev/v1alpha1\nkind: InferenceModel\nmetadata: {name: NAME}\nspec:\n  model: {source: "builtin://tiny-chat"}\n'
    return str(cli.write(f"{name}.yaml", source.replace("NAME", name) + "  engine: {maxModelLength: 128}\n" + more))


def address(text):
    return re.search(r"http://127\.0\.0\.1:\d+/v1", text)[0]


def test_a_session_in_a_terminal(cli, up, processes):
    """Asks, shows the table, applies edits, tells the other commands, and drains on Ctrl-C."""
    descendants, until_gone = processes
    file = write_tiny(cli)
    session = up(file, "--ask", "Hello?", terminal=True)
    shown = session.until("/state tiny\r\n")
    assert "> Hello?" in shown
    assert "from openai import OpenAI" in shown
    assert "curl http://127.0.0.1:" in shown
    shown = session.until(lambda text: re.search(r"tiny\s+\x1b\[32mReady", text) is not None and "TOKENS/S" in text)

    listed = cli.run("get").stdout.splitlines()
    assert listed[0].split() == ["NAME", "READY", "REASON", "REPLICAS", "SOURCE", "URL", "AGE"]
    assert listed[1].split()[:5] == ["tiny", "True", "Ready", "1", "builtin://tiny-chat"]
    url = address(listed[1])
    whole = cli.run("get", "tiny", "-o", "yaml").stdout
    assert yaml.safe_load(whole)["status"]["url"] == url
    assert yaml.safe_load(whole)["status"]["engine"]["name"] == "batching"
    assert "null" not in whole
    (one,) = json.loads(cli.run("get", "-o", "json").stdout)["items"]
    assert json.loads(cli.run("get", "tiny", "-o", "json").stdout)["metadata"] == one["metadata"]
    assert "listening" in cli.run("logs", "tiny").stdout
    assert cli.run("ask", "tiny", "Hello", "--max-tokens", "4").stdout.strip()
    assert cli.run("chat", stdin="Hello\n").returncode == 0
    refused = cli.run("up", file)
    assert refused.returncode == 1
    assert "already runs" in refused.stderr
    assert "--state-dir" in refused.stderr

    pods = descendants(session.process.pid)
    session.forget()
    cli.write("tiny.yaml", "kind: InferenceModel\n")
    session.until("stays in force")
    write_tiny(cli, "  scaling: {targetConcurrency: 3}\n")
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        stream = client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "Hi"}], max_tokens=100, stream=True)
        first = next(iter(stream))
        assert first.choices
        session.interrupt()
        reasons = [chunk.choices[0].finish_reason for chunk in stream if chunk.choices]
        assert reasons[-1] in ("length", "stop")  # the running stream was not cut
    assert session.wait() == 0
    until_gone(pods)
    assert cli.run("get").returncode == 1


def test_the_calls_that_it_prints_work_when_they_are_pasted(cli, up):
    """In a narrow terminal too, whose width must not show in what is copied from it; the state directory is not the usual one."""
    cli.env["COLUMNS"] = "80"
    session = up(write_tiny(cli), "--state-dir", str(cli.folder / "other"), terminal=True)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", session.until("/other tiny\r\n")).replace("\r", "")
    curl, python, chat = re.search(r"curl:\n\n(.*?)\n\n.*?openai\):\n\n(.*?)\n\n.*?terminal:\n\n(.*?)\n", shown, re.DOTALL).groups()
    for command, stdin in (
        (["bash", "-c", f"{curl} --no-progress-meter --fail"], ""),
        ([sys.executable, "-"], python),
        (["bash", "-c", chat], "Hi"),
    ):
        done = subprocess.run(command, input=stdin, text=True, capture_output=True, cwd=cli.folder, env=without_state(cli.env), check=False)
        assert done.returncode == 0, (command, stdin, done.stderr)
        assert done.stdout.strip()


def without_state(environment):
    """What a terminal knows in which nobody has chosen a state directory."""
    return {name: value for name, value in environment.items() if not name.startswith("MODELYARD_")}


def test_wakes_answers_and_sleeps_again(cli, up):
    session = up(write_tiny(cli, SCALE), "--no-watch")
    shown = session.until(lambda text: "ScaledToZero" in text and "Serving at" in text)
    assert "no replica of tiny has run yet" in cli.run("logs", "tiny").stderr
    answer = cli.run("ask", "--max-tokens", "3", "Hello")
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip()
    session.until("scaled from 0 to 1 replicas")
    session.until("scaled from 1 to 0 replicas")
    assert address(shown)
    down = cli.run("down")
    assert down.returncode == 0
    assert down.stdout.splitlines()[-1] == "Stopped."
    assert session.wait() == 0


def test_without_a_terminal_it_ends_after_the_answer_which_alone_is_on_standard_output(cli):
    answer = cli.run("up", write_tiny(cli), "--host", "127.0.0.2", "--ask", "Hello?")
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip()
    assert "Serving at http://127.0.0.2:" in answer.stderr
    assert "Ready" in answer.stderr
    assert "Ready" not in answer.stdout
    assert cli.run("get").returncode == 1


def test_nothing_outlives_it_when_it_is_killed(cli, up, processes):
    descendants, until_gone = processes
    session = up(write_tiny(cli), "--no-watch")
    session.until("tiny: Loading")
    left = descendants(session.process.pid)
    assert left
    session.process.send_signal(signal.SIGKILL)
    session.wait()
    until_gone(left)
    gone = cli.run("get")
    assert gone.returncode == 1
    assert "no `modelyard up` runs" in gone.stderr


def test_a_second_signal_does_not_wait(cli, up, processes):
    descendants, until_gone = processes
    session = up(write_tiny(cli, SCALE), "--no-watch")
    url = address(session.until("ScaledToZero"))
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}
    outcome = []

    def ask():
        try:
            outcome.append(httpx.post(f"{url}/chat/completions", json=body, timeout=60, trust_env=False).status_code)
        except httpx.TransportError as cut:
            outcome.append(cut)

    asking = threading.Thread(target=ask)
    asking.start()
    session.until("tiny: Loading")
    left = descendants(session.process.pid)
    session.interrupt()
    session.interrupt()
    session.wait()
    asking.join()
    until_gone(left)
    assert outcome  # a held request is ended, not left hanging
    assert outcome != [200]


def test_weights_that_are_missing_end_it_with_the_cause_and_the_remedy(cli):
    file = cli.write("broken.yaml", MISSING)
    answer = cli.run("up", str(file), "--once")
    assert answer.returncode == 1
    last = answer.stderr.splitlines()[-1]
    assert last.startswith("modelyard: broken: WeightsNotFound:")
    assert "/nonexistent/weights" in last
    assert "Traceback" not in answer.stderr


MISSING = """\
apiVersion: modelyard.dev/v1alpha1
kind: InferenceModel
metadata: {name: broken}
spec: {model: {source: "file:///nonexistent/weights"}}
"""


def test_gpus_that_are_missing_are_told(cli):
    cli.env["CUDA_VISIBLE_DEVICES"] = ""
    answer = cli.run("up", write_tiny(cli, "  resources: {gpu: {count: 2}}\n"), "--once")
    assert answer.returncode == 1
    assert "InsufficientGPU" in answer.stderr.splitlines()[-1]
    assert "this machine has too few free devices: nvidia.com/gpu. Lower spec.resources.gpu.count" in answer.stderr
    assert not re.search(r"\b(pods?|nodes?|kubectl)\b", answer.stderr)


def test_a_port_that_is_taken_is_refused(cli):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        answer = cli.run("up", write_tiny(cli), "--port", str(port))
    assert answer.returncode == 1
    assert answer.stderr.startswith(f"modelyard: port {port} of 127.0.0.1 is taken.")


def test_a_crashed_instance_does_not_stand_in_the_way(cli):
    state = cli.folder / "state"
    state.mkdir()
    (state / "lock").touch()
    (state / "instance.json").write_text(f'{{"pid": {os.getpid()}, "url": "x", "private_url": "", "started": 0, "files": []}}')
    assert cli.run("get").returncode == 1
    answer = cli.run("up", str(cli.write("broken.yaml", MISSING)), "--once")
    assert "WeightsNotFound" in answer.stderr
    assert (state.stat().st_mode & 0o777) == 0o700


@pytest.mark.parametrize("again", [False, True])
def test_a_bad_manifest_is_refused_in_the_words_of_the_api_server(cli, again):
    file = cli.write("bad.yaml", MISSING.replace("source:", "sauce:") if again else MISSING + "  colour: red\n".replace("  ", ""))
    for command in (["validate", str(file)], ["up", str(file)]):
        answer = cli.run(*command)
        assert answer.returncode == 1
        assert "Traceback" not in answer.stderr
        assert answer.stderr.startswith("modelyard: bad.yaml: InferenceModel")
        assert ("spec.model.sauce" if again else "colour") in answer.stderr
