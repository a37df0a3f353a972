"""The examples of the page on speech, run as they stand against a small model of that name."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[3] / "docs" / "speech.md"


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")  # the client's own, of its models' names
def test_examples_run_as_they_stand(  # noqa: PLR0917 - fixtures
    start, converted, multilingual, voice, tmp_path, monkeypatch
):
    server = start((f"whisper-tiny-en=file://{converted}", f"whisper-small=file://{multilingual}"), beam_size=1)
    (tmp_path / "meeting.wav").write_bytes(voice)
    monkeypatch.chdir(tmp_path)
    session: dict[str, Any] = {}
    examples = re.findall(r"^```(python|bash)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(examples) == 6
    for language, text in examples[1:]:  # the first one starts a server
        example = text.replace("http://localhost:8080", server.url)
        if language == "python":
            exec(compile(example, str(PAGE), "exec"), session)
        else:
            command = ["bash", "-euo", "pipefail", "-c", example.replace("curl ", "curl --silent --show-error --fail-with-body ")]
            done = subprocess.run(command, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
            assert done.stdout.startswith("1\n00:00:0")
            assert "\nWEBVTT\n\n00:00:0" in done.stdout
