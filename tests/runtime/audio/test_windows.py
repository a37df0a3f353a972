from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from modelyard_runtime.speech.base import LONG_WINDOW_SECONDS, SAMPLE_RATE, WINDOW_SECONDS, Segment, Word
from modelyard_runtime.speech.decode import decode
from modelyard_runtime.speech.merge import join
from modelyard_runtime.speech.phrases import phrases, share, words
from modelyard_runtime.speech.render import srt, text_of, vtt, word_objects
from modelyard_runtime.speech.sensitivity import Sensitivity
from modelyard_runtime.speech.vad import STEP, speech_probabilities, speech_spans
from modelyard_runtime.speech.windows import OVERLAP, Window, plan


def spoken(*seconds):
    """Returns probabilities for turns of speech and silence, in seconds, beginning with speech."""
    turns = [np.full(int(length * SAMPLE_RATE / STEP), 0.95 * (index % 2 == 0), np.float32) for index, length in enumerate(seconds)]
    return np.concatenate(turns)


def planned(probabilities, seconds=WINDOW_SECONDS):
    return plan(speech_spans(probabilities, len(probabilities) * STEP, Sensitivity()), probabilities, seconds * SAMPLE_RATE)


def test_tones_like_a_voice_are_heard_and_silence_and_noise_are_not(voice, silence):
    def heard(data):
        return float(speech_probabilities(decode(data, max_seconds=60, check=lambda: None), lambda: None).max())

    assert heard(voice) > 0.9
    assert heard(silence) < 0.1
    noise = (np.random.default_rng(0).standard_normal(48_000) * 3000).astype(np.int16)
    assert speech_probabilities(noise, lambda: None).max() < 0.3


def test_blocks_change_nothing(voice):
    """The network's state goes from block to block: a long recording is heard as it would be in one."""
    from faster_whisper.vad import get_vad_model

    second = decode(voice, max_seconds=60, check=lambda: None)
    recording = np.tile(np.concatenate([second, np.zeros_like(second)]), 10)
    ours = speech_probabilities(recording, lambda: None)
    theirs = np.ravel(get_vad_model()(np.pad(recording, (0, -len(recording) % STEP)).astype(np.float32) / 32768.0))
    assert len(recording) > 1024 * STEP
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.floats(0, 1, width=32), max_size=300), st.floats(0.1, 0.9), st.floats(0.1, 3), st.floats(0, 1))
def test_spans_are_in_order_within_the_recording_and_hold_all_clear_speech(values, threshold, silence, padding):
    probabilities = np.array(values, np.float32)
    length = max(len(values) * STEP - 100, 0)
    spans = speech_spans(probabilities, length, Sensitivity(threshold, silence, padding))
    assert all(0 <= start < end <= length for start, end in spans)
    assert all(left[1] <= right[0] for left, right in pairwise(spans))
    covered = np.zeros(len(values) + 1, bool)
    for start, end in spans:
        covered[start // STEP : -(-end // STEP)] = True
    runs = np.split(np.arange(len(values)), np.flatnonzero(np.diff(probabilities >= threshold)) + 1) if values else []
    assert all(covered[run].all() for run in runs if len(run) > 4 and probabilities[run[0]] >= threshold)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(0.2, 70), min_size=1, max_size=12), st.sampled_from([WINDOW_SECONDS, LONG_WINDOW_SECONDS]))
def test_windows_hold_all_speech_and_fit_the_model(turns, seconds):
    probabilities = spoken(*turns)
    spans = speech_spans(probabilities, len(probabilities) * STEP, Sensitivity())
    windows = plan(spans, probabilities, seconds * SAMPLE_RATE)
    assert all(0 < window.length <= seconds * SAMPLE_RATE for window in windows)
    covered = sorted(piece for window in windows for piece in window.pieces)
    for start, end in spans:
        inside = [piece for piece in covered if start <= piece[0] and piece[1] <= end]
        assert (inside[0][0], inside[-1][1]) == (start, end)
        assert all(right[0] <= left[1] for left, right in pairwise(inside))


def test_a_long_talk_is_cut_in_a_pause():
    windows = planned(spoken(22, 0.5, 20))
    assert [window.overlap for window in windows] == [0, 0]
    assert 22 <= windows[0].pieces[0][1] / SAMPLE_RATE <= 22.5
    assert windows[0].pieces[0][1] == windows[1].pieces[0][0]


def test_a_talk_without_a_pause_is_cut_with_an_overlap():
    windows = planned(spoken(50))
    assert [window.overlap for window in windows] == [0, OVERLAP]
    assert windows[0].pieces[0][1] - windows[1].pieces[0][0] == OVERLAP
    start, end = windows[1].shared
    assert (start, end) == (26.0, 30.0)


def test_a_model_that_finds_its_own_way_gets_a_talk_without_a_pause_whole():
    assert [window.length for window in planned(spoken(76), LONG_WINDOW_SECONDS)] == [2375 * STEP]
    assert [window.overlap for window in planned(spoken(150), LONG_WINDOW_SECONDS)] == [0, OVERLAP]


def test_it_is_cut_where_a_sentence_may_end_and_not_between_words():
    seconds = [round(window.length / SAMPLE_RATE) for window in planned(spoken(25, 0.2, 40, 0.7, 20, 0.7, 40), LONG_WINDOW_SECONDS)]
    assert seconds == [66, 21, 40]
    assert [window.overlap for window in planned(spoken(25, 0.2, 40))] == [0, 0, OVERLAP]
    assert [window.overlap for window in planned(spoken(115, 0.2, 40), LONG_WINDOW_SECONDS)] == [0, 0]


def test_speech_between_long_silences_shares_a_window():
    windows = planned(spoken(5, 60, 5, 60, 5))
    assert len(windows) == 1
    assert len(windows[0].pieces) == 3


def test_a_window_knows_the_moments_of_the_recording():
    window = Window(((16_000, 32_000), (160_000, 176_000)))
    assert window.moment(0.0) == 1.0
    assert window.moment(0.5) == 1.5
    assert window.moment(1.0, is_end=True) == 2.0
    assert window.moment(1.0) == 10.0
    assert window.moment(1.5) == 10.5
    assert window.moment(9.0) == 11.0


def said(text, start, step=0.5):
    """Returns a segment whose words follow each other in equal steps."""
    own = tuple(Word(start + step * index, start + step * (index + 1), f" {word}", 0.9) for index, word in enumerate(text.split()))
    return Segment(own[0].start, own[-1].end, "".join(word.text for word in own), (1, 2), 0.0, -0.3, 1.0, 0.1, own)


@pytest.mark.parametrize(
    ("before", "after", "whole"),
    [
        ("one two three four five six", "four five six seven eight", "one two three four five six seven eight"),
        ("one two three Four, five si", "our four five six seven", "one two three Four, five six seven"),
        ("one two three four", "three four five", "one two three four five"),
        ("one two three four five six", "vier funf sechs seven eight", "one two three four funf sechs seven eight"),
    ],
)
def test_words_that_two_windows_heard_are_said_once(before, after, whole):
    first = said(before, 28.0)
    second = said(after, 28.0 + 0.5 * (len(before.split()) - 3) + 0.1)
    kept, added = join([first], [second], (29.0, 31.2))
    assert text_of(kept + added) == whole


def test_segments_without_words_go_to_the_window_in_whose_half_they_begin():
    plain = [Segment(start, start + 0.5, f" {start}", (), 0.0, 0.0, 1.0, 0.0) for start in (28.0, 29.5, 30.5)]
    kept, added = join(plain, plain, (29.0, 31.0))
    assert [segment.start for segment in kept + added] == [28.0, 29.5, 30.5]


FIRST = 100  # the token of 0.00 s


@pytest.mark.parametrize(
    ("tokens", "found", "read"),
    [
        ([100, 1, 2, 150, 150, 3, 200], [(0.0, 1.0), (1.0, 2.0)], 5.0),
        ([100, 1, 2, 150, 150, 3], [(0.0, 1.0)], 1.0),
        ([100, 1, 2], [(0.0, 5.0)], 5.0),
        ([100, 1, 2, 150], [(0.0, 1.0)], 5.0),
        ([], [(0.0, 5.0)], 5.0),
        ([100, 1, 1000, 1000, 2, 1001], [(0.0, 5.0), (5.0, 5.0)], 5.0),
    ],
)
def test_tokens_become_phrases(tokens, found, read):
    parts, until = phrases(tokens, FIRST, 5.0)
    assert ([(part.start, part.end) for part in parts], until) == (found, read)


def test_words_take_their_punctuation_along():
    timed = words([" Hello", ",", " world", "."], [1, 1, 2, 1], [0.0, 0.5, 0.6, 0.8, 1.0, 1.1], [0.9, 0.5, 0.6, 0.8, 0.1])
    assert [(word.text, word.start, word.end, size) for word, size in timed] == [(" Hello,", 0.0, 0.5, 2), (" world.", 0.6, 1.0, 3)]
    assert [[word.text for word in own] for own in share(timed, [2, 3])] == [[" Hello,"], [" world."]]


def test_subtitles():
    segments = [said("one two", 3599.5), said("a --> b", 7200.0)]
    assert srt(segments).startswith("1\n00:59:59,500 --> 01:00:00,500\none two\n\n2\n02:00:00,000 --> 02:00:01,500\na -> b\n\n")
    assert vtt(segments).startswith("WEBVTT\n\n00:59:59.500 --> 01:00:00.500\none two\n\n")
    assert srt([]) == ""
    assert word_objects(segments[:1]) == [{"word": "one", "start": 3599.5, "end": 3600.0}, {"word": "two", "start": 3600.0, "end": 3600.5}]
