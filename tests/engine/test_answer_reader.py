"""Where an answer ends: at stop strings in its content, or with its only call."""

import pytest
from modelyard_runtime.models.answer import AnswerParser, Content, OneCall, Part, PlainParser, Reasoning, ToolCallArguments
from modelyard_runtime.models.answer_reader import AnswerReader
from modelyard_runtime.models.reasoning import ThinkParser
from modelyard_runtime.models.tools.hermes import HermesParser

CALL = '<tool_call>{"name": "f", "arguments": {"s": "a STOP b"}}</tool_call>'
Answer = tuple[str, str, str, bool]


def plain() -> AnswerParser:
    return PlainParser()


def hermes() -> AnswerParser:
    return HermesParser()


def thinking() -> AnswerParser:
    return ThinkParser(HermesParser(), opened=False)


# (parser, text, content, reasoning, arguments, whether it was stopped)
ROWS = [
    (plain, "Hello STOP world", "Hello ", "", "", True),
    (plain, "Hello STO", "Hello STO", "", "", False),
    (plain, "", "", "", "", False),
    (hermes, f"Well. {CALL}", "Well.", "", '{"s": "a STOP b"}', False),
    (hermes, f"Well. {CALL} And STOP.", "Well.And ", "", '{"s": "a STOP b"}', True),
    (hermes, f"Well STOP. {CALL}", "Well ", "", "", True),
    (hermes, f"Well STO{CALL}P.", "Well STOP.", "", '{"s": "a STOP b"}', False),
    (hermes, "<tool_call>no STOP call", "<tool_call>no ", "", "", True),
    (thinking, "<think>Shall I STOP?</think>No STO", "No STO", "Shall I STOP?", "", False),
    (thinking, f"<think>STOP</think>{CALL} STOP", "", "STOP", '{"s": "a STOP b"}', True),
]


def heard(parts: list[Part]) -> tuple[str, str, str]:
    return (
        "".join(part.text for part in parts if isinstance(part, Content)),
        "".join(part.text for part in parts if isinstance(part, Reasoning)),
        "".join(part.text for part in parts if isinstance(part, ToolCallArguments)),
    )


@pytest.mark.parametrize(("make", "text", "content", "reasoning", "arguments", "stopped"), ROWS)
def test_stop_strings_are_met_in_the_content_alone_however_it_is_cut(  # noqa: PLR0917 - a row
    make, text, content, reasoning, arguments, stopped
):
    def read(*pieces: str) -> Answer:
        reader, parts = AnswerReader(make(), ["STOP", "never"]), []
        for piece in pieces:
            parts += reader.push(piece)
            if reader.over:
                break
        parts += reader.finish()
        return (*heard(parts), reader.stopped)

    expected = (content, reasoning, arguments, stopped)
    assert read(text) == expected
    assert read(*text) == expected
    for cut in range(len(text) + 1):
        assert read(text[:cut], text[cut:]) == expected, f"cut at {cut}"


def test_what_may_become_a_stop_string_is_withheld():
    reader = AnswerReader(plain(), ["STOP"])
    assert (reader.push("Hello ST"), reader.withheld) == ([Content("Hello ")], 2)
    assert (reader.push("ILL"), reader.withheld) == ([Content("STILL")], 0)
    assert (reader.push(" STOP it"), reader.withheld, reader.over) == ([Content(" ")], len("STOP it"), True)
    assert reader.finish() == []


def test_an_answer_of_one_call_is_over_with_it():
    reader = AnswerReader(OneCall(hermes()), one_call=True)
    reader.push(CALL.removesuffix("}</tool_call>"))
    assert not reader.over
    reader.push("}</tool_call>")
    assert (reader.over, reader.stopped) == (True, False)
