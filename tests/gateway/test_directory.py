import pytest
from modelyard.api.errors import ModelNotFound
from modelyard.gateway.directory import Directory
from modelyard.gateway.types import Endpoint, ModelRecord

OLD, NEW = "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"
ONE = frozenset({Endpoint("10.0.0.1", 8000)})


def directory(*records):
    one = Directory()
    for record in records:
        one.set_model(record)
    return one


def test_every_name_leads_to_its_model():
    one = directory(ModelRecord("a/chat", aliases=("gpt",), created=OLD))
    assert {one.resolve(name).key for name in ("chat", "a/chat", "gpt")} == {"a/chat"}
    assert one.public_name(one.resolve("gpt")) == "chat"


def test_adapters_are_reached_under_every_name_of_their_model():
    one = directory(ModelRecord("a/chat", aliases=("gpt",), adapters=("sql",), created=OLD), ModelRecord("b/chat", adapters=("tone",)))
    names = ("chat:tone", "b/chat:tone", "a/chat:sql", "gpt:sql")
    assert [one.resolve(name).key for name in names] == ["b/chat", "b/chat", "a/chat", "a/chat"]
    with pytest.raises(ModelNotFound):
        one.resolve("chat:sql")


def test_an_adapters_name_takes_no_models_or_aliass():
    one = directory(ModelRecord("a/chat", adapters=("sql",), created=OLD), ModelRecord("a/other", aliases=("chat:sql",), created=NEW))
    assert one.resolve("chat:sql").key == "a/other"
    assert one.resolve("a/chat:sql").key == "a/chat"


@pytest.mark.parametrize("order", [1, -1])
def test_of_two_that_claim_a_name_the_older_holds_it(order):
    records = [ModelRecord("z/chat", created=OLD), ModelRecord("a/chat", aliases=("gpt",), created=NEW), ModelRecord("a/gpt", created=OLD)]
    one = directory(*records[::order])
    assert (one.resolve("chat").key, one.resolve("gpt").key) == ("z/chat", "a/gpt")
    assert one.resolve("a/chat").key == "a/chat"
    assert [one.public_name(record) for record in one.models()] == ["gpt", "chat", "a/chat"]


def test_an_alias_never_takes_a_qualified_name():
    one = directory(ModelRecord("a/old", aliases=("b/new",), created=OLD), ModelRecord("b/new", created=NEW))
    assert one.resolve("b/new").key == "b/new"


def test_a_name_falls_to_the_younger_when_the_older_goes():
    one = directory(ModelRecord("a/chat", created=OLD), ModelRecord("b/chat", created=NEW))
    one.remove_model("a/chat")
    assert one.resolve("chat").key == "b/chat"


def test_what_exists_is_listed_within_bounds():
    one = directory(*(ModelRecord(f"a/m{number:03}", created=OLD) for number in range(500)))
    with pytest.raises(ModelNotFound) as caught:
        one.resolve("x" * 10_000)
    assert "m000, m001" in caught.value.message
    assert "and 480 more" in caught.value.message
    assert len(caught.value.message) < 1000
    with pytest.raises(ModelNotFound, match="No model is deployed"):
        directory().resolve("x")


def test_endpoints_may_come_before_their_model_and_go_with_it():
    one = Directory()
    one.set_endpoints("a/chat", ONE)
    one.set_model(ModelRecord("a/chat"))
    assert one.endpoints("a/chat") == ONE
    one.remove_model("a/chat")
    assert one.endpoints("a/chat") == frozenset()


def test_listeners_hear_changes_and_nothing_else():
    one, heard = Directory(), []
    one.subscribe(heard.append)
    for _ in range(2):
        one.set_model(ModelRecord("a/chat"))
        one.set_endpoints("a/chat", ONE)
    one.set_endpoints("a/chat", frozenset())
    one.remove_model("a/chat")
    one.remove_model("a/chat")
    assert heard == ["a/chat"] * 4
