"""The state directory."""

import pytest
from modelyard.local.errors import AlreadyRunning, LocalFailed, NothingRuns
from modelyard.local.state import Instance, State, default_path

INSTANCE = Instance(pid=7, url="http://127.0.0.1:8080/v1", private_url="http://127.0.0.1:9090", started=1.0, files=("/a.yaml",))


@pytest.mark.parametrize(
    ("environ", "path"),
    [
        ({"MODELYARD_STATE_DIR": "/a/b", "XDG_STATE_HOME": "/c"}, "/a/b"),
        ({"XDG_STATE_HOME": "/c"}, "/c/modelyard"),
    ],
)
def test_where_it_is(environ, path):
    assert str(default_path(environ)) == path


def test_tells_of_the_running_instance_and_forgets_it_at_its_end(tmp_path):
    state = State(tmp_path / "deep" / "state")
    with pytest.raises(NothingRuns):
        state.instance()
    with state.own():
        state.announce(INSTANCE)
        state.publish([{"metadata": {"name": "m"}}])
        assert State(state.root).instance() == INSTANCE
        assert State(state.root).models() == [{"metadata": {"name": "m"}}]
        assert state.root.stat().st_mode & 0o777 == 0o700
    assert not state.is_owned()
    with pytest.raises(NothingRuns):
        state.models()


def test_a_second_owner_is_refused_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr("modelyard.local.state._PATIENCE", 0.0)
    state = State(tmp_path)
    with state.own():
        state.announce(INSTANCE)
        with pytest.raises(AlreadyRunning, match=r"process 7.*--state-dir"), State(tmp_path).own():
            pass


def test_what_a_crash_left_behind_is_no_instance(tmp_path):
    state = State(tmp_path)
    with state.own():
        state.announce(INSTANCE)
        left = (tmp_path / "instance.json").read_text()
    (tmp_path / "instance.json").write_text(left)
    (tmp_path / "logs" / "default" / "m").mkdir(parents=True)
    with pytest.raises(NothingRuns):
        state.instance()
    with state.own():
        assert not (tmp_path / "logs").exists()


def test_a_place_that_cannot_be_written_is_told_with_what_to_do(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(LocalFailed, match=r"cannot keep state in .*file/state: Not a directory\. .*--state-dir"),
        State(tmp_path / "file" / "state").own(),
    ):
        pass
    with pytest.raises(NothingRuns):
        State(tmp_path / "file" / "state").instance()
    state = State(tmp_path / "state")
    with state.own():
        (state.root / "models.json").mkdir()  # what a full disk does too: the new content does not take the old one's place
        with pytest.raises(LocalFailed, match="cannot keep state"):
            state.publish([])
        (state.root / "models.json").rmdir()
