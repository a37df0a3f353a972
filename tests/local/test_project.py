"""Manifests, read and read again."""

import asyncio

import pytest
from modelyard.controller.types import Key
from modelyard.local import project
from modelyard.local.errors import InvalidProject

MANIFEST = (
    "{apiVersion: modelyard.dev/v1alpha1, kind: InferenceModel, metadata: {name: NAME}, spec: {model: {source: 'builtin://tiny-chat'}}}"
)


def write(path, *names):
    path.write_text("\n---\n".join(MANIFEST.replace("NAME", name) for name in names))
    return path


def names(loaded):
    return sorted(key.name for key in loaded.models)


def test_reads_files_documents_and_folders(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    write(folder / "a.yaml", "a", "b")
    write(folder / "c.yml", "c")
    (folder / "notes.txt").write_text("not a manifest")
    assert names(project.load([folder, write(tmp_path / "d.yaml", "d")])) == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kind: [", "bad.yaml: error parsing"),
        ("", "bad.yaml: holds no manifest"),
        (None, "bad.yaml: No such file or directory"),
        (b"\xff\xfe\xff", "bad.yaml: not UTF-8 text"),
    ],
)
def test_refuses_what_is_no_manifest(tmp_path, text, words, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bad.yaml"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InvalidProject, match=words):
        project.load([path])


def test_refuses_a_model_that_is_declared_twice(tmp_path):
    with pytest.raises(InvalidProject, match=r"InferenceModel default/a is declared in .*a\.yaml too"):
        project.load([write(tmp_path / "a.yaml", "a"), write(tmp_path / "b.yaml", "a")])


def test_an_invalid_edit_leaves_the_old_plan_in_force(tmp_path):
    first, second = write(tmp_path / "a.yaml", "a"), write(tmp_path / "b.yaml", "b")
    before = project.load([first, second])
    first.write_text("kind: Nonsense")
    write(second, "b", "c")
    after = project.reload(before)
    assert names(after) == ["a", "b", "c"]
    assert len(after.problems) == 1
    write(first, "a", "a2")
    again = project.reload(after)
    assert names(again) == ["a", "a2", "b", "c"]
    assert again.problems == ()


def test_a_document_that_is_removed_is_gone(tmp_path):
    path = write(tmp_path / "a.yaml", "a", "b")
    before = project.load([path])
    write(path, "b")
    assert names(project.reload(before)) == ["b"]


async def test_an_edit_by_replacement_is_seen(tmp_path):
    path = write(tmp_path / "a.yaml", "a")
    loaded = project.load([path])
    seen = asyncio.Event()

    async def follow():
        async for _ in project.changes(loaded):
            seen.set()

    following = asyncio.create_task(follow())
    async with asyncio.timeout(30):
        while not seen.is_set():  # the watch is up at some moment; from then on each edit is seen
            write(tmp_path / "new", "b").replace(path)
            try:
                async with asyncio.timeout(1):
                    await seen.wait()
            except TimeoutError:
                continue
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    assert Key("default", "b") in project.reload(loaded).models
