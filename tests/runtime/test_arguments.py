"""The command line: what is said of flags that there are not, and what `--help` shows of those that there are."""

import pytest
from modelyard_runtime.arguments import parse
from modelyard_runtime.errors import ArgumentsInvalid
from modelyard_runtime.settings import ServeSettings

# What was given → the flag that was meant, or nothing
UNKNOWN = {
    "--max-model-len=8192": "--max-model-length",
    "--max-queu=3": "--max-queue",
    "--max-num-seqs=4": "--max-concurrent-sequences",
    "--tool-call-parser=hermes": "--tool-parser",
    "--enable-prefix-caching": "--prefix-caching",
    "--lora-modules=a=b": "--adapter",
    "--api-key=secret": "--api-key-file",
    "--admin-key=secret": "--admin-key-file",
    "--skip-warmup=chat": "--warmup",
    "--colour=red": "",
    "-x": "",
}


@pytest.mark.parametrize("given", UNKNOWN)
def test_an_unknown_flag_is_named_with_the_one_that_was_meant(given):
    with pytest.raises(ArgumentsInvalid) as refused:
        parse(["serve", "builtin://tiny-chat", given])
    assert f"unrecognized arguments: {given}" in refused.value.message
    meant = UNKNOWN[given]
    assert f"(did you mean {meant}" in refused.value.message if meant else "did you mean" not in refused.value.message


def test_pull_knows_its_own_flags_alone():
    with pytest.raises(ArgumentsInvalid, match=r"--cache-dirs=x \(did you mean --cache-dir\?\)"):
        parse(["pull", "builtin://tiny-chat", "--cache-dirs=x"])
    with pytest.raises(ArgumentsInvalid) as refused:
        parse(["pull", "builtin://tiny-chat", "--max-queu=3"])
    assert "did you mean" not in refused.value.message


@pytest.fixture
def shown(capsys, monkeypatch) -> str:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        parse(["serve", "--help"])
    return capsys.readouterr().out


def test_help_shows_the_values_there_are_and_all_defaults(shown):
    assert "--dtype auto|float32|bfloat16|float16" in shown
    assert "--capability chat|completions|vision|embeddings|rerank|classify|transcription" in shown
    assert "--max-queue N " in shown
    assert "--queue-timeout TIME " in shown
    words = " ".join(shown.split())
    assert "Keep prompts' keys and values for requests that begin alike. Default true." in words
    assert "Read-only stores" in words


def test_help_lists_every_flag_but_secrets(shown):
    for field, info in ServeSettings.model_fields.items():
        secret = info.json_schema_extra == {"environment_only": True}
        assert (f"  --{field.replace('_', '-')} " in shown) is not secret, field


def test_the_cache_is_where_xdg_has_it(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert str(parse(["serve", "builtin://tiny-chat"]).cache_dir) == "/caches/modelyard"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/user")
    assert str(parse(["serve", "builtin://tiny-chat"]).cache_dir) == "/home/user/.cache/modelyard"
