"""The engine's flags, as a client and Prometheus see them."""

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from modelyard_runtime.errors import ArgumentsInvalid
from modelyard_runtime.hardware import is_intel
from modelyard_runtime.main import parse

QUESTION = "Tell me of the sea, of the sea and of the sea, and once more of the sea. " * 3


def ask(server, text=QUESTION, **more):
    body = {"model": "tiny-chat", "messages": [{"role": "user", "content": text}], "max_tokens": 40, "temperature": 0, "ignore_eos": True}
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=body | more, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


def text(answer):
    return answer["choices"][0]["message"]["content"]


def test_answers_are_the_same_whatever_saves_work(chat, start):
    server = start(kv_cache_tokens=512, max_model_length=256, speculative_tokens=4)
    questions = [QUESTION[: 60 + 7 * i] for i in range(12)]
    plain = [text(ask(chat, question)) for question in questions]
    with ThreadPoolExecutor(12) as pool:
        tight = [text(answer) for answer in pool.map(lambda question: ask(server, question), questions)]
    assert tight == plain
    assert server.metric("prefix_cache_hits_total") > 0
    assert server.metric("prefix_cache_queries_total") > server.metric("prefix_cache_hits_total")
    assert server.metric("kv_cache_usage_perc") == 0


def test_what_was_found_in_the_cache_is_part_of_the_usage_unless_caching_is_off(start):
    for server, found in ((start(), True), (start(prefix_caching=False), False)):
        ask(server)
        usage = ask(server)["usage"]
        assert (usage["prompt_tokens_details"]["cached_tokens"] > 16) is found
        assert usage["prompt_tokens"] > usage["prompt_tokens_details"]["cached_tokens"]


def test_answers_are_the_same_wherever_keys_and_values_lie(chat, start):
    server = start(kv_cache="paged", kv_cache_tokens=512, max_model_length=256)
    questions = [QUESTION[: 60 + 7 * i] for i in range(8)]
    plain = [text(ask(chat, question)) for question in questions]
    with ThreadPoolExecutor(8) as pool:
        paged = [text(answer) for answer in pool.map(lambda question: ask(server, question), questions)]
    assert paged == plain
    assert text(ask(server, questions[-1])) == plain[-1]
    assert server.metric("prefix_cache_hits_total") > 0
    assert server.metric("kv_cache_usage_perc") == 0


def test_large_weights_become_four_bits_where_that_is_asked_for(start):
    for above, kind, layer in (("1Ki", "int4", "Int4Linear"), ("1Ti", "none", "MklLinear" if is_intel() else "OneDnnLinear")):
        server = start(quantization="auto", quantize_above=above, dtype="float32")
        assert len(text(ask(server)))
        engine = httpx.get(f"{server.url}/v1/models/{server.name}").json()["engine"]
        assert (engine["quantization"], engine["dtype"]) == (kind, "float32")
        assert layer in engine["kernels"]


@pytest.mark.parametrize("flag", ["--kv-cache=heap", "--quantize-above=much", "--device-map=all", "--device-memory=0%", "--cuda-graphs=on"])
def test_bad_values_of_devices_are_named(flag):
    test_bad_values_are_named(flag)


@pytest.mark.parametrize("flag", ["--kv-cache-tokens=1", "--speculative-tokens=99", "--engine-step-timeout=0s", "--prefix-caching=perhaps"])
def test_bad_values_are_named(flag):
    with pytest.raises(ArgumentsInvalid, match=flag.split("=", 1)[0]):
        parse(["serve", "builtin://tiny-chat", flag])


def test_a_length_that_the_model_does_not_have_is_told(start, caplog):
    """It is no reason to refuse: the flag may be meant for other models of the server."""
    server = start(max_model_length=9999)
    longest = httpx.get(f"{server.url}/v1/models/{server.name}").json()["max_model_len"]
    assert f"--max-model-length=9999 is more than this model takes; requests have {longest} tokens" in caplog.text
