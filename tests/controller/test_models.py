from modelyard.controller.models import Models
from modelyard.controller.types import Key

A, B = Key("a", "chat"), Key("b", "chat")


def stored(make_raw, key, *, created="2026-01-01T00:00:00Z", version=1, generation=1, aliases=(), **metadata):
    raw = make_raw(key.name, namespace=key.namespace, model={"source": "builtin://tiny-chat", "aliases": list(aliases)})
    raw["metadata"] |= {"creationTimestamp": created, "resourceVersion": str(version), "generation": generation} | metadata
    return raw


def test_only_news_are_worth_a_look(make_raw):
    models = Models()
    assert models.put(stored(make_raw, A)) == {A}
    assert models.put(stored(make_raw, A)) == set()  # listed again
    assert models.put(stored(make_raw, A, version=2)) == set()  # status alone
    assert models.put(stored(make_raw, A, version=3, generation=2)) == {A}
    assert models.put(stored(make_raw, A, version=2)) == set()  # late news are old news
    assert models.get(A).metadata.generation == 2
    assert models.put(stored(make_raw, A, version=4, generation=2, deletionTimestamp="2026-01-01T00:00:00Z")) == {A}


def test_the_older_of_two_keeps_the_name_until_it_goes(make_raw):
    models = Models()
    models.put(stored(make_raw, B, created="2026-01-02T00:00:00Z"))
    assert models.conflict(B) is None
    assert models.put(stored(make_raw, A)) == {A, B}
    assert models.conflict(A) is None
    assert "belongs to the older model a/chat" in models.conflict(B)
    assert "reachable as b/chat" in models.conflict(B)
    assert models.remove(A) == {A, B}
    assert models.conflict(B) is None


def test_an_alias_collides_with_a_name_and_is_given_up(make_raw):
    models, other = Models(), Key("a", "other")
    models.put(stored(make_raw, A))
    models.put(stored(make_raw, other, created="2026-01-02T00:00:00Z", aliases=["chat", "gpt"]))
    assert "'chat'" in models.conflict(other)
    assert models.put(stored(make_raw, other, version=2, generation=2, created="2026-01-02T00:00:00Z", aliases=["gpt"])) == {A, other}
    assert models.conflict(other) is None


def test_models_are_found_by_their_childrens_label(make_raw):
    models, long = Models(), Key("a", "m" * 80)
    models.put(stored(make_raw, long))
    (label,) = {child for _, child in models._by_child}
    assert models.by_child("a", label) == long
    assert models.by_child("b", label) is None
    models.remove(long)
    assert models.by_child("a", label) is None
    assert len(models) == 0


def test_an_own_write_is_owed_until_the_watch_brings_it_back(make_raw):
    models = Models()
    models.put(stored(make_raw, A))
    models.wrote(stored(make_raw, A, version=5))
    assert models.seen("MODIFIED", stored(make_raw, A, version=4)) == set()
    assert models.echo_age > 0
    assert models.seen("MODIFIED", stored(make_raw, A, version=5)) == set()
    assert models.echo_age == 0
    models.wrote(stored(make_raw, A, version=6))
    assert models.seen("DELETED", stored(make_raw, A, version=7)) == {A}
    assert models.echo_age == 0


def test_a_model_made_anew_in_a_gap_of_the_watch_is_news_and_the_younger(make_raw):
    models = Models()
    models.put(stored(make_raw, A))
    models.put(stored(make_raw, B, created="2026-01-02T00:00:00Z"))
    assert models.put(stored(make_raw, A, version=5, uid="uid-2", created="2026-01-03T00:00:00Z")) == {A, B}
    assert models.conflict(B) is None
    assert "belongs to the older model b/chat" in models.conflict(A)


def test_a_late_answer_brings_no_deleted_model_back(make_raw):
    models = Models()
    models.put(stored(make_raw, A))
    models.seen("DELETED", stored(make_raw, A, version=2))
    models.wrote(stored(make_raw, A, version=2))
    assert A not in models
    models.put(stored(make_raw, A, version=3, uid="uid-2"))
    models.wrote(stored(make_raw, A, version=4))
    assert models.get(A).metadata.uid == "uid-2"
    assert models.echo_age == 0
