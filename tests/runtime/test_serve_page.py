"""docs/serve.md: its catalogue is served, and its commands are run against that server as they stand."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from modelyard_runtime.arguments import parse
from modelyard_runtime.errors import ArgumentsInvalid
from modelyard_runtime.settings import ServeSettings
from modelyard_runtime.sources.tiny import make_chat

from .tiny_adapters import adapter

PAGE = (Path(__file__).parents[2] / "docs" / "serve.md").read_text()


def test_the_catalogue_and_the_commands_work_as_they_stand(start, tmp_path):
    catalogue = tmp_path / "models.yaml"
    catalogue.write_text(re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)[0])
    adapters = tmp_path / "adapters"
    (tmp_path / "base").mkdir()
    make_chat(tmp_path / "base")
    adapters.mkdir()
    adapter(tmp_path / "base", adapters / "sql", 1)
    allowed = ("builtin://*", f"file://{adapters}/*")
    server = start((), catalogue=catalogue, state_dir=tmp_path / "state", allow_pull=allowed)
    (tmp_path / ".curlrc").write_text("silent\nshow-error\nfail-with-body\n")
    environment = {"PATH": os.environ["PATH"], "CURL_HOME": str(tmp_path), "HOME": str(tmp_path)}
    examples = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len(examples) == 3
    for example in examples:
        text = example.replace("http://localhost:8000", server.url).replace("http://localhost:9000", server.private_url)
        text = text.replace("file:///adapters", f"file://{adapters}")
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", text], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{example}: {done.stdout}{done.stderr}"


FLAGS = {f"--{name.replace('_', '-')}" for name in ServeSettings.model_fields} | {"--help"}
ELSEWHERE = re.findall(
    r"^\| (.+) \| (.+) \|$", PAGE.partition("| elsewhere | here |\n|---|---|\n")[2].partition("\n\n")[0] + "\n", re.MULTILINE
)


def flags_of(text: str) -> set[str]:
    return set(re.findall(r"(--[a-z][a-z-]+)", text))


def test_the_page_names_flags_that_there_are():
    assert len(ELSEWHERE) > 5
    own = PAGE
    for there, _ in ELSEWHERE:
        own = own.replace(f"| {there} |", "| |")
    assert flags_of(own) <= FLAGS


@pytest.mark.parametrize("flag", sorted(set().union(*(flags_of(there) for there, _ in ELSEWHERE)) - FLAGS))
def test_a_flag_of_another_server_leads_to_what_the_page_says(flag):
    here = next(here for there, here in ELSEWHERE if flag in flags_of(there))
    with pytest.raises(ArgumentsInvalid) as refused:
        parse(["serve", "builtin://tiny-chat", flag])
    meant = flags_of(refused.value.message.partition("did you mean")[2])
    assert meant
    assert meant <= flags_of(here)
