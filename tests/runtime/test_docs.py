"""The examples of the documentation, run as they stand against a server with the small built-in models."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ("api.md",)
MODELS = tuple(f"builtin://{name}" for name in ("tiny-chat", "tiny-embed", "tiny-rerank", "tiny-classify", "tiny-vision"))
#: The addresses in the documentation: a gateway's, which has the same paths as a runtime; Ollama's, of a server that clients may change.
ADDRESS, CHANGED = "http://localhost:8080", "http://localhost:11434"
_BLOCK = re.compile(r"^```(python|bash)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: str) -> list[tuple[int, str, str]]:
    """Returns (line, language, text) of a page's examples, in order."""
    text = (DOCS / page).read_text()
    return [(text.count("\n", 0, match.start()) + 2, match[1], match[2]) for match in _BLOCK.finditer(text)]


@pytest.mark.parametrize("page", PAGES)
def test_examples_run_as_they_stand(page, start, tmp_path):
    """Python blocks share their names, as in one session; a curl that fails fails its block."""
    server = start(MODELS)
    changed = start("builtin://tiny-chat", ollama_admin=True, state_dir=tmp_path)
    (tmp_path / ".curlrc").write_text("silent\nshow-error\nfail-with-body\n")
    session: dict[str, Any] = {}
    assert blocks(page)
    for line, language, text in blocks(page):
        example = text.replace(ADDRESS, server.url).replace(CHANGED, changed.url)
        if language == "python":
            # Padded, so that a traceback has the page's line numbers.
            exec(compile("\n" * (line - 1) + example, str(DOCS / page), "exec"), session)
        else:
            environment = {"PATH": os.environ["PATH"], "CURL_HOME": str(tmp_path), "HOME": str(tmp_path)}
            done = subprocess.run(["bash", "-euo", "pipefail", "-c", example], env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{page}:{line}: {done.stdout}{done.stderr}"
