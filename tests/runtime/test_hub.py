"""`hf://` against a server on loopback that speaks the hub's endpoints; each attempt is a process, as HF_ENDPOINT is read once."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from modelyard.api.reasons import EXIT_CODES, Reason, Termination

from .hub import FILES, Hub, serving


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as hub:
        yield hub


@pytest.fixture
def pull(command, tmp_path, hub):
    """Pulls a source and returns its folder, or the termination of a failed attempt."""

    def run(source: str, *flags: str, endpoint: str = "") -> Path | Termination:
        process = command(
            "pull", source, "--cache-dir", str(tmp_path / "cache"), *flags, HF_ENDPOINT=endpoint or hub.url, HF_HUB_ETAG_TIMEOUT="2"
        )
        out, _ = process.communicate(timeout=60)
        if process.returncode == 0:
            return Path(out.strip())
        termination = Termination.parse((tmp_path / "termination").read_text())
        assert termination is not None
        assert process.returncode == EXIT_CODES[termination.reason]
        return termination

    return run


def test_weights_config_and_tokenizer_are_fetched_and_nothing_that_runs(pull, hub):
    folder = pull("hf://org/name")
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "1_Pooling/config.json",
    }
    assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]


def test_a_fetched_repository_outlives_the_hub(pull, hub, tmp_path):
    folder = pull("hf://org/name")
    assert pull("hf://org/name", endpoint="http://127.0.0.1:9") == folder
    assert (
        pull("hf://org/name", "--cache-dir", str(tmp_path / "other"), "--model-dir", str(tmp_path / "cache"), endpoint="http://127.0.0.1:9")
        == folder
    )


def test_a_private_repository_needs_its_token(pull, hub, tmp_path):
    hub.token = "secret-token"
    refused = pull("hf://org/name")
    assert refused.reason is Reason.UNAUTHORIZED
    assert "no token is given" in refused.message
    assert "credentialsSecret" in refused.remedy
    (tmp_path / "token").write_text("wrong-token\n")
    refused = pull("hf://org/name", "--token-file", str(tmp_path / "token"))
    assert "may not read it" in refused.message
    assert "wrong-token" not in refused.to_json()
    (tmp_path / "token").write_text("secret-token\n")
    assert pull("hf://org/name", "--token-file", str(tmp_path / "token")).is_dir()


def test_what_does_not_exist_is_told(pull):
    assert pull("hf://org/other").reason is Reason.WEIGHTS_NOT_FOUND
    missing = pull("hf://org/name@nothing")
    assert missing.reason is Reason.WEIGHTS_NOT_FOUND
    assert "'nothing'" in missing.message


def test_a_hub_that_cannot_be_reached_is_told(pull):
    failed = pull("hf://org/name", endpoint="http://127.0.0.1:9")
    assert failed.reason is Reason.DOWNLOAD_FAILED
    assert "HF_ENDPOINT" in failed.remedy


def test_repositories_without_safetensors_are_refused(pull, hub):
    del hub.files["model.safetensors"], hub.files["original/consolidated.safetensors"]
    refused = pull("hf://org/name")
    assert refused.reason is Reason.UNSUPPORTED_MODEL
    assert "safetensors" in refused.message


def test_weights_in_ctranslate2s_format_are_fetched(pull, hub):
    hub.files["model.bin"] = hub.files.pop("model.safetensors")
    hub.files["vocabulary.txt"] = b"a"
    folder = pull("hf://org/name")
    assert {path.name for path in folder.iterdir() if path.is_file()} >= {"model.bin", "config.json", "vocabulary.txt"}


def test_a_file_that_does_not_end_does_not_fill_the_disk(pull, hub):
    hub.endless = True
    failed = pull("hf://org/name")
    assert failed.reason is Reason.DOWNLOAD_FAILED
    assert "bytes, not 3000000" in failed.message
