"""Tokens to text as they come: nothing is lost, nothing is split, stop strings hold across borders."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from modelyard_runtime.models.text import Detokeniser, StopStrings
from modelyard_runtime.sources.tiny import make_chat
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

SIGNS = "aé漢字😀👩‍👩‍👧\u0301 \n\u200b\ufffd"
texts = st.one_of(st.text(max_size=40), st.text(alphabet=SIGNS, max_size=40))


@pytest.fixture(scope="module")
def bytewise(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    make_chat(folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def spacewise() -> Any:
    """In the manner of Llama 2: words begin with a mark for a space, the first one's space is dropped, unknown text goes by bytes."""
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "▁a", "b", "▁b", "ab", "▁ab", "é", "漢"]
    tokenizer = Tokenizer(
        models.Unigram([(piece, -float(len(pieces) - i)) for i, piece in enumerate(pieces)], unk_id=0, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def streamed(tokenizer: Any, ids: list[int]) -> list[str]:
    detokeniser = Detokeniser(tokenizer)
    return [*(detokeniser.push(token) for token in ids), detokeniser.flush()]


def whole(tokenizer: Any, ids: list[int]) -> str:
    text: str = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text


@pytest.mark.parametrize("kind", ["bytewise", "spacewise"])
def test_streamed_text_is_the_decoded_text(kind: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(kind)

    @given(texts)
    @example("a b ab  é漢😀 a")
    def check(text: str) -> None:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert "".join(streamed(tokenizer, ids)) == whole(tokenizer, ids)

    check()


def test_any_tokens_stream_as_they_decode(bytewise: Any) -> None:
    """Random tokens, as an untrained model says them: broken characters too, and special tokens, which have no text."""

    @given(st.lists(st.integers(0, len(bytewise) - 1), max_size=14))
    def check(ids: list[int]) -> None:
        assert "".join(streamed(bytewise, ids)) == whole(bytewise, ids)

    check()


def test_a_character_comes_out_once_it_is_whole(bytewise: Any) -> None:
    ids = bytewise("😀é", add_special_tokens=False)["input_ids"]
    parts = streamed(bytewise, ids)
    assert len(ids) > 2
    assert [part for part in parts if part] == ["😀", "é"]
    assert all("\ufffd" not in part for part in parts)


def test_cost_per_token_does_not_grow(bytewise: Any) -> None:
    """The window that is decoded stays short, whatever comes: words, special tokens, bytes that never make a character."""
    broken = bytewise.convert_tokens_to_ids("Ģ")
    for ids in ([20, 300, 310] * 100, [1, 2] * 150, [broken] * 300):
        detokeniser, longest = Detokeniser(bytewise), 0
        for token in ids:
            detokeniser.push(token)
            longest = max(longest, len(detokeniser._window))
        assert longest <= 33


@given(st.text(alphabet="ab\n#", max_size=60), st.lists(st.text(alphabet="ab\n#", min_size=1, max_size=5), max_size=3), st.data())
def test_stop_strings_hold_across_borders(text: str, stops: list[str], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)))))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    stream, out, met = StopStrings(stops), "", False
    for piece in pieces:
        ready, met = stream.push(piece)
        out += ready
        if met:
            break
    first = min((at for stop in stops if (at := text.find(stop)) >= 0), default=None)
    if first is None:
        assert not met
        assert out + stream.flush() == text
    else:
        assert met
        assert not any(stop in out for stop in stops)
        assert text.startswith(out)


def test_text_is_not_held_back_longer_than_a_stop_string_could_begin() -> None:
    stream = StopStrings(["END"])
    assert stream.push("the E") == ("the ", False)
    assert stream.push("N") == ("", False)
    assert stream.push("emy") == ("ENemy", False)
    assert stream.push("xENDy") == ("x", True)
