"""docs/serve.md: its catalogue is served, and its commands are run against that server as they stand."""

import os
import re
import subprocess
from pathlib import Path

PAGE = (Path(__file__).parents[2] / "docs" / "serve.md").read_text()


def test_the_catalogue_and_the_commands_work_as_they_stand(start, tmp_path):
    catalogue = tmp_path / "models.yaml"
    catalogue.write_text(re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)[0])
    server = start((), catalogue=catalogue, state_dir=tmp_path / "state")
    (tmp_path / ".curlrc").write_text("silent\nshow-error\nfail-with-body\n")
    environment = {"PATH": os.environ["PATH"], "CURL_HOME": str(tmp_path), "HOME": str(tmp_path)}
    examples = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len(examples) == 2
    for example in examples:
        text = example.replace("http://localhost:8000", server.url).replace("http://localhost:9000", server.private_url)
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", text], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{example}: {done.stdout}{done.stderr}"


def test_the_page_names_flags_that_there_are():
    from modelyard_runtime.settings import ServeSettings

    flags = {f"--{name.replace('_', '-')}" for name in ServeSettings.model_fields} | {"--help"}
    assert set(re.findall(r"`?(--[a-z][a-z-]+)", PAGE)) <= flags
