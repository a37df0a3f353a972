"""Flags, made from settings."""

import pytest
from modelyard.gateway.settings import GatewaySettings
from modelyard.process.command_line import parse


def gateway(*arguments):
    return parse(GatewaySettings, "modelyard-gateway", "Routes.", arguments)


def test_help_shows_defaults_as_they_would_be_written(capsys):
    with pytest.raises(SystemExit, match="0"):
        gateway("--help")
    told = " ".join(capsys.readouterr().out.split())
    assert "--header-timeout TIME Longest time a request's head may take; then 408. Default 10s." in told
    assert "--access-log, --no-access-log" in told
    assert "Default true." in told
    assert "timedelta" not in told
    assert "0:00" not in told


def test_flags_win_over_the_environment(monkeypatch):
    monkeypatch.setenv("MODELYARD_PORT", "1")
    monkeypatch.setenv("MODELYARD_SETTLE_TIME", "2s")
    settings = gateway("--port", "0", "--no-access-log")
    assert (settings.port, settings.settle_time.total_seconds(), settings.access_log) == (0, 2.0, False)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--prot=1"], "modelyard-gateway: there is no --prot=1; did you mean --port? modelyard-gateway --help lists the flags.\n"),
        (["--port"], "modelyard-gateway: argument --port: expected one argument. modelyard-gateway --help lists the flags.\n"),
        (["--drain-timeout=5"], "modelyard-gateway: --drain-timeout: must be a duration with a unit, such as 30s, 5m or 1h30m, not '5'\n"),
    ],
)
def test_what_cannot_be_is_told_in_a_line(capsys, arguments, told):
    with pytest.raises(SystemExit, match="2"):
        gateway(*arguments)
    assert capsys.readouterr().err == told


def test_a_bad_variable_is_named(capsys, monkeypatch):
    monkeypatch.setenv("MODELYARD_MAX_CONNECTIONS", "0")
    with pytest.raises(SystemExit, match="2"):
        gateway()
    assert "modelyard-gateway: MODELYARD_MAX_CONNECTIONS: " in capsys.readouterr().err
