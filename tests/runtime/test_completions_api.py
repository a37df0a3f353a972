"""Text completions in full, with the unmodified `openai` client, its answers validated."""

import pytest

GO_ON = {"model": "tiny-chat", "prompt": "Hello the world", "max_tokens": 6, "temperature": 0}


@pytest.fixture
def client(chat):
    return chat.openai(strict=True)


@pytest.fixture
def lenient(chat):
    """For echoes: OpenAI's first token has null for its probability, which its own client's types do not know."""
    return chat.openai()


def test_echo_and_log_probabilities_of_a_prompt(lenient, tokenizer):
    answer = lenient.completions.create(**GO_ON, echo=True, logprobs=2)
    [choice] = answer.choices
    lists = choice.logprobs
    prompt = tokenizer("Hello the world")["input_ids"]
    assert choice.text.startswith("Hello the world")
    assert "".join(lists.tokens) == choice.text
    assert len(lists.tokens) == len(prompt) + 6
    assert lists.token_logprobs[0] is None
    assert lists.top_logprobs[0] is None
    assert all(value <= 0 for value in lists.token_logprobs[1:])
    assert lists.text_offset == [len("".join(lists.tokens[:i])) for i in range(len(lists.tokens))]
    assert all(2 <= len(best) <= 3 for best in lists.top_logprobs[1:])
    assert answer.usage.prompt_tokens == len(prompt)


def test_a_prompt_is_scored_without_an_answer(lenient):
    long = lenient.completions.create(**{**GO_ON, "max_tokens": 0}, echo=True, logprobs=1)
    assert long.choices[0].text == "Hello the world"
    assert long.usage.completion_tokens == 0
    assert long.choices[0].finish_reason == "length"
    scored = long.choices[0].logprobs.token_logprobs
    # The same tokens, generated one after the other, have the same probabilities.
    full = lenient.completions.create(**GO_ON, echo=True, logprobs=0).choices[0]
    assert scored == pytest.approx(full.logprobs.token_logprobs[: len(scored)], abs=1e-4)
    again = lenient.completions.create(**{**GO_ON, "prompt": full.text, "max_tokens": 0}, echo=True, logprobs=0).choices[0]
    if again.logprobs.tokens == full.logprobs.tokens:
        assert again.logprobs.token_logprobs[1:] == pytest.approx(full.logprobs.token_logprobs[1:], abs=1e-3)


def test_a_prompt_comes_back_alone(client):
    assert client.completions.create(**{**GO_ON, "max_tokens": 0}, echo=True).choices[0].text == "Hello the world"
    tokens = client.completions.create(**{**GO_ON, "prompt": [70, 80, 90], "max_tokens": 0}, echo=True).choices[0]
    assert tokens.text


def test_streamed_echo_and_log_probabilities_are_those_of_the_whole(lenient):
    wanted = {**GO_ON, "prompt": ["Hello the world", "of é and"], "echo": True, "logprobs": 1, "n": 2, "temperature": 1.2, "seed": 3}
    whole = lenient.completions.create(**wanted)
    assert [choice.index for choice in whole.choices] == [0, 1, 2, 3]
    chunks = [choice for chunk in lenient.completions.create(**wanted, stream=True) for choice in chunk.choices]
    for choice in whole.choices:
        mine = [chunk for chunk in chunks if chunk.index == choice.index]
        assert "".join(chunk.text for chunk in mine) == choice.text
        for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
            assert [value for chunk in mine for value in getattr(chunk.logprobs, name)] == getattr(choice.logprobs, name)


def test_the_best_of_several_has_the_highest_mean_log_probability(client):
    wanted = {**GO_ON, "temperature": 1.5, "seed": 11}
    all_five = client.completions.create(**wanted, n=5, logprobs=0)
    best_two = client.completions.create(**wanted, n=2, best_of=5)
    mean = {choice.text: sum(choice.logprobs.token_logprobs) / len(choice.logprobs.token_logprobs) for choice in all_five.choices}
    ranked = sorted(mean, key=lambda text: -mean[text])
    assert [choice.text for choice in best_two.choices] == ranked[:2]
    assert best_two.choices[0].logprobs is None
    assert best_two.usage.completion_tokens == all_five.usage.completion_tokens


def test_an_empty_suffix_is_no_suffix(client):
    assert client.completions.create(**GO_ON, suffix="").choices[0].text
