"""docs/engine.md names what there is."""

import re
from pathlib import Path

import modelyard_runtime.engine
from modelyard_runtime.settings import ServeSettings

PAGE = (Path(__file__).parents[2] / "docs" / "engine.md").read_text()
#: Without the commands that measure and test: their flags and files are their own.
TEXT = re.sub(r"`(python|pytest) [^`]*`", "", PAGE)


def test_flags_and_modules_exist() -> None:
    flags = set(re.findall(r"--([a-z][a-z-]+)", TEXT))
    assert flags
    assert {flag.replace("-", "_") for flag in flags} <= set(ServeSettings.model_fields)
    modules = set(re.findall(r"\b([a-z_]+\.py)\b", TEXT))
    assert modules <= {path.name for path in Path(modelyard_runtime.engine.__path__[0]).glob("*.py")}


def test_pages_that_it_points_to_exist() -> None:
    for link in re.findall(r"\]\(([^)]+)\)", PAGE):
        assert (Path(__file__).parents[2] / "docs" / link).is_file()
