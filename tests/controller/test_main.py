import logging
import os
import subprocess
import sys

import pytest
from modelyard.controller.main import main, parse
from pydantic import ValidationError


@pytest.fixture(autouse=True)
def _own_logging():
    root, kopf = logging.getLogger(), logging.getLogger("kopf")
    handlers, levels = root.handlers[:], (root.level, kopf.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    kopf.setLevel(levels[1])


def test_flags_win_over_the_environment(monkeypatch):
    monkeypatch.setenv("MODELYARD_RUNTIME_IMAGE", "from-env")
    monkeypatch.setenv("MODELYARD_WATCH_NAMESPACE", "team-a")
    settings = parse(["run", "--runtime-image", "from-flag"])
    assert (settings.runtime_image, settings.watch_namespace) == ("from-flag", "team-a")
    assert settings.build().runtime_image == "from-flag"


def test_settings_are_frozen():
    with pytest.raises(ValidationError):
        parse([]).port = 1


@pytest.mark.parametrize(
    ("flag", "value"), [("--port", "eighty"), ("--workers", "0"), ("--image-pull-policy", "Sometimes"), ("--runtime-image", "")]
)
def test_a_bad_value_is_fatal_and_named(capsys, flag, value):
    with pytest.raises(SystemExit, match="2"):
        main([f"{flag}={value}"])
    told = capsys.readouterr().err
    assert flag in told
    assert repr(value) in told
    assert told.count("\n") == 1


def test_without_a_cluster_it_says_what_to_do(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "KUBERNETES_SERVICE_HOST"}
    environment["KUBECONFIG"] = str(tmp_path / "none")
    command = [sys.executable, "-m", "modelyard.controller.main"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert "KUBECONFIG" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_help_teaches_every_flag(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    told = capsys.readouterr().out
    assert all(words in told for words in ("--watch-namespace", "--lease-duration", "MODELYARD_", "Default 32."))
