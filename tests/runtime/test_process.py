"""The process as Kubernetes and `modelyard up` see it: arguments, start, failed starts, drain, end."""

import json
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import httpx
import pytest
from modelyard.api.reasons import EXIT_CODES, Reason, Termination

from .conftest import logged, wait_until

HELLO = [{"role": "user", "content": "Hello"}]
TINY = ("serve", "--model=builtin://tiny-chat", "--port=0", "--metrics-port=0")


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


# Arguments → (reason, words of the message, words of the remedy)
FAILED_STARTS = {
    "no model": (["serve"], Reason.ENGINE_ARGUMENTS_INVALID, "--model is required", "--help"),
    "unknown flag": (["serve", "--model=builtin://tiny-chat", "--colour=red"], Reason.ENGINE_ARGUMENTS_INVALID, "--colour", "--help"),
    "no number": (["serve", "--model=builtin://tiny-chat", "--max-queue=many"], Reason.ENGINE_ARGUMENTS_INVALID, "--max-queue", "--help"),
    "no unit": (["serve", "--model=builtin://tiny-chat", "--drain-timeout=60"], Reason.ENGINE_ARGUMENTS_INVALID, "30s, 5m", "--help"),
    "no command": ([], Reason.ENGINE_ARGUMENTS_INVALID, "COMMAND", "--help"),
    "no scheme": (["serve", "--model=tiny-chat"], Reason.ENGINE_ARGUMENTS_INVALID, "not a source", "write builtin://tiny-chat"),
    "a repository without a scheme": (
        ["serve", "Qwen/Qwen3-0.6B"],
        Reason.ENGINE_ARGUMENTS_INVALID,
        "'Qwen/Qwen3-0.6B' is not a source",
        "write hf://Qwen/Qwen3-0.6B for the repository",
    ),
    "a path without a scheme": (["pull", "/models/a"], Reason.ENGINE_ARGUMENTS_INVALID, "is not a source", "write file:///models/a"),
    "no such builtin": (["serve", "--model=builtin://nothing"], Reason.WEIGHTS_NOT_FOUND, "'nothing'", "tiny-chat"),
    "no such folder": (
        ["serve", "--model=file:///nowhere/at/all"],
        Reason.WEIGHTS_NOT_FOUND,
        "/nowhere/at/all does not exist",
        "check the path in --model (spec.model.source)",
    ),
    "no such token": (
        ["serve", "--model=builtin://tiny-chat", "--token-file=/nowhere/token"],
        Reason.UNAUTHORIZED,
        "/nowhere/token",
        "Secret",
    ),
    "cache not writable": (
        ["serve", "--model=builtin://tiny-chat", "--cache-dir=/proc/cache"],
        Reason.DOWNLOAD_FAILED,
        "/proc/cache",
        "--cache-dir",
    ),
    "an address of another machine": (
        ["serve", "--model=builtin://tiny-chat", "--host=192.0.2.1"],
        Reason.ENGINE_ARGUMENTS_INVALID,
        "--host: cannot listen on 192.0.2.1",
        "0.0.0.0",
    ),
    "no size": (
        ["serve", "--model=builtin://tiny-chat", "--memory-budget=lots"],
        Reason.ENGINE_ARGUMENTS_INVALID,
        "such as 512Mi",
        "--help",
    ),
    "an adapter without a name": (
        ["serve", "--model=builtin://tiny-chat", "--adapter=file:///a"],
        Reason.ENGINE_ARGUMENTS_INVALID,
        "--adapter: must be name=source",
        "--help",
    ),
    "a flag of serve": (["pull", "builtin://tiny-chat", "--port=1"], Reason.ENGINE_ARGUMENTS_INVALID, "--port=1", "pull --help"),
    "pull of nothing": (["pull", "builtin://nothing"], Reason.WEIGHTS_NOT_FOUND, "'nothing'", "all-minilm-l6-v2"),
}


@pytest.mark.parametrize("case", FAILED_STARTS)
def test_a_failed_start_says_why_in_both_places(command, tmp_path, case):
    arguments, reason, words, remedy = FAILED_STARTS[case]
    ports = ["--port=0", "--metrics-port=0"] if "serve" in arguments else []
    code, errors = ended(command(*arguments, *ports))
    assert code == EXIT_CODES[reason]
    line = errors.splitlines()[-1]
    assert line.startswith(f"modelyard-runtime: {reason}: ")
    termination = Termination.parse((tmp_path / "termination").read_text())
    assert termination is not None
    assert termination.reason is reason
    assert words in termination.message
    assert words in line
    assert remedy in termination.remedy


def broken(folder: Path, **config: object) -> str:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return f"--model=file://{folder}"


def test_a_model_of_an_unknown_kind_is_unsupported(command, tmp_path):
    code, _ = ended(command("serve", broken(tmp_path / "model", architectures=["WalrusForSwimming"]), "--port=0", "--metrics-port=0"))
    assert code == EXIT_CODES[Reason.UNSUPPORTED_MODEL]
    assert "WalrusForSwimming" in (tmp_path / "termination").read_text()


def test_a_folder_without_weights_is_told(command, tmp_path):
    model = broken(tmp_path / "model", architectures=["Qwen3ForCausalLM"], model_type="qwen3")
    code, _ = ended(command("serve", model, "--port=0", "--metrics-port=0"))
    assert code == EXIT_CODES[Reason.WEIGHTS_NOT_FOUND]
    assert "safetensors" in (tmp_path / "termination").read_text()


def test_a_taken_port_is_named(command, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, errors = ended(command("serve", "--model=builtin://tiny-chat", f"--port={port}", "--metrics-port=0"))
    assert code == 2
    assert f"--port: cannot listen on 127.0.0.1:{port}" in errors


def test_a_pull_that_is_interrupted_ends_in_a_line(command):
    with socket.create_server(("127.0.0.1", 0)) as hub:
        process = command("pull", "hf://some/model", HF_ENDPOINT=f"http://127.0.0.1:{hub.getsockname()[1]}")
        hub.settimeout(60)
        with hub.accept()[0]:
            process.send_signal(signal.SIGINT)
            code, errors = ended(process)
    assert code == 130
    assert errors.splitlines()[-1] == "modelyard-runtime: interrupted"
    assert "Traceback" not in errors


def test_an_interrupt_that_a_library_swallows_counts_all_the_same():
    swallowing = """
        import signal
        from modelyard_runtime import errors, main
        def run(settings):
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt:
                raise errors.DownloadFailed("the hub fell silent", "try again") from None
        main._run = run
        main.main(["pull", "builtin://tiny-chat"])
    """
    ran = subprocess.run([sys.executable, "-c", textwrap.dedent(swallowing)], capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stderr) == (130, "modelyard-runtime: interrupted\n")


def test_flags_come_from_the_environment_too(command, tmp_path):
    code, errors = ended(command("serve", MODELYARD_MODEL="builtin://tiny-chat", MODELYARD_MAX_QUEUE="-1"))
    assert code == 2
    assert "MODELYARD_MAX_QUEUE: " in errors


def test_help_teaches_and_imports_no_pytorch():
    code = """
from modelyard_runtime.main import main
try:
    main(["serve", "--help"])
except SystemExit:
    print("torch" in sys.modules)
"""
    out = subprocess.run([sys.executable, "-c", f"import sys{code}"], capture_output=True, text=True, check=True).stdout
    assert "curl localhost:8000/v1/chat/completions" in out
    assert "--max-queue" in out
    assert out.endswith("False\n")


def test_it_listens_before_it_loads_and_drains_on_sigterm(command, tmp_path):
    """One process, for starting one takes seconds: early probes, 503 while loading, a stream over SIGTERM, exit 0."""
    process = command(*TINY, "--settle-time=1s", "--served-model-name=tiny")
    ports = logged(process, "listening")
    url = f"http://127.0.0.1:{ports['port']}"
    assert httpx.get(f"{url}/health").status_code == 200
    early = httpx.post(f"{url}/v1/chat/completions", json={"model": "tiny", "messages": HELLO})
    assert httpx.get(f"{url}/ready").status_code == 503
    assert early.status_code == 503
    assert early.json()["error"]["code"] == "model_loading"
    assert int(early.headers["retry-after"]) > 0
    assert httpx.get(f"http://127.0.0.1:{ports['metricsPort']}/progress").json()["phase"] in {"resolve", "convert", "load", "warmup"}
    logged(process, "ready")
    assert httpx.get(f"{url}/ready").status_code == 200

    body = {"model": "tiny", "messages": HELLO, "max_tokens": 1500, "ignore_eos": True, "temperature": 0, "stream": True}
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=60) as response:
        lines = response.iter_lines()
        next(lines)
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: httpx.get(f"{url}/ready").status_code == 503, "readiness is off")
        settled = httpx.post(f"{url}/v1/chat/completions", json={"model": "tiny", "messages": HELLO, "max_tokens": 1})
        assert settled.status_code == 200, "load balancers have not looked away yet"
        assert settled.headers["connection"] == "close"
        refused = threading.Event()

        def ask() -> bool:
            answer = httpx.post(f"{url}/v1/chat/completions", json={"model": "tiny", "messages": HELLO, "max_tokens": 1})
            if answer.status_code == 503 and answer.json()["error"]["code"] == "draining":
                refused.set()
            return refused.is_set()

        wait_until(ask, "new requests are refused")
        rest = list(lines)
    assert rest[-2] == "data: [DONE]"
    assert sum('"content":"' in line for line in rest) > 100
    code, _ = ended(process)
    assert code == 0
    assert not (tmp_path / "termination").exists()


def test_sigterm_while_loading_ends_at_once(command):
    process = command(*TINY)
    logged(process, "listening")
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == 0


def test_pull_prints_the_folder_and_a_server_finds_it_in_a_read_only_store(command, tmp_path, start):
    process = command("pull", "builtin://tiny-embed", "--cache-dir", str(tmp_path / "store"))
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    folder = Path(out.strip())
    assert folder.parent.parent == tmp_path / "store"
    assert (folder / "model.safetensors").is_file()
    server = start("builtin://tiny-embed", model_dir=str(tmp_path / "store"))
    assert "convert" not in server.progress()["seconds"]
