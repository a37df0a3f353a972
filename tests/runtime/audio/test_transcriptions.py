"""The audio endpoints, by the unmodified openai client and by raw forms.

What the tiny models say is noise, and sampled, because it is unlikely; how it is said is tested.
"""

import asyncio
import io
import math
import threading
import wave

import httpx
import openai
import pytest
from modelyard_runtime.speech.listening import sample_file
from openai.types.audio import TranscriptionTextDeltaEvent, TranscriptionTextDoneEvent

PATH = "/v1/audio/transcriptions"


def ask(server, path=PATH, *, file=None, headers=None, **fields):
    """Posts a form; a field that is a list is sent once for each element."""
    data = {"model": "whisper"} | fields
    files = {} if file is None else {"file": ("a.bin", file)}
    return httpx.post(server.url + path, data=data, files=files, headers=headers, timeout=60)


@pytest.mark.parametrize("name", ["wav", "flac", "mp3", "ogg", "m4a", "webm"])
def test_every_format_is_taken(speech, encoded, name):
    answer = speech.openai().audio.transcriptions.create(model="whisper", file=(f"a.{name}", encoded(name, 1.2)))
    assert answer.usage.type == "duration"
    assert answer.usage.seconds == 2


def test_the_openai_client_reads_every_response_format(speech, voice):
    client = speech.openai()

    def create(**more):
        return client.audio.transcriptions.create(model="whisper", file=("a.wav", voice), temperature=0, **more)

    assert create().text
    verbose = create(response_format="verbose_json", timestamp_granularities=["word", "segment"])
    assert verbose.language == "english"
    assert verbose.duration == 2.0
    assert "".join(segment.text for segment in verbose.segments).strip() == verbose.text != ""
    assert all(0 <= word.start <= word.end <= 2.1 for word in verbose.words)
    assert [segment.id for segment in verbose.segments] == list(range(len(verbose.segments)))
    assert verbose.task == "transcribe"
    assert create(response_format="text").endswith("\n")
    assert create(response_format="srt").startswith("1\n00:00:0")
    assert create(response_format="vtt").startswith("WEBVTT\n\n00:00:0")
    words_alone = create(response_format="verbose_json", timestamp_granularities=["word"])
    assert words_alone.segments is None
    assert create(response_format="verbose_json").words is None


async def test_a_stream_has_openais_events(speech, voice):
    client = openai.AsyncOpenAI(base_url=f"{speech.url}/v1", api_key="none", max_retries=0)
    whole = await client.audio.transcriptions.create(model="whisper", file=("a.wav", voice))
    stream = await client.audio.transcriptions.create(model="whisper", file=("a.wav", voice), stream=True, prompt="hi")
    events = [event async for event in stream]
    *deltas, done = events
    assert deltas
    assert all(isinstance(event, TranscriptionTextDeltaEvent) for event in deltas)
    assert isinstance(done, TranscriptionTextDoneEvent)
    assert done.text == "".join(event.delta for event in deltas) != ""
    usage = done.usage
    assert usage.input_token_details.audio_tokens == math.ceil(2.0 * 50)
    assert usage.input_token_details.text_tokens == 2
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert whole.text
    await client.close()


def test_silence_is_no_text(speech, silence):
    client = speech.openai()
    assert client.audio.transcriptions.create(model="whisper", file=("a.wav", silence)).text == ""
    assert client.audio.transcriptions.create(model="whisper", file=("a.wav", silence), response_format="vtt") == "WEBVTT\n\n"
    verbose = client.audio.transcriptions.create(model="whisper", file=("a.wav", silence), response_format="verbose_json")
    assert (verbose.segments, verbose.duration) == ([], 3.0)
    events = list(client.audio.transcriptions.create(model="whisper", file=("a.wav", silence), stream=True))
    assert [event.type for event in events] == ["transcript.text.done"]


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")  # the client's own, of its models' names
def test_a_multilingual_model_detects_and_translates(polyglot, voice):
    client = polyglot.openai()
    detected = client.audio.transcriptions.create(model="whisper", file=("a.wav", voice), response_format="verbose_json")
    assert detected.language in ("english", "german")
    german = client.audio.transcriptions.create(model="whisper", file=("a.wav", voice), language="DE", response_format="verbose_json")
    assert german.language == "german"
    english = client.audio.translations.create(model="whisper", file=("a.wav", voice), response_format="verbose_json")
    assert english.language == "english"
    assert english.task == "translate"
    assert set(client.models.retrieve("whisper").languages) == {"en", "de"}


def turns(count: int, pause: float) -> bytes:
    """Returns a recording in which somebody speaks for two seconds again and again."""
    with wave.open(io.BytesIO(sample_file(2.0))) as reader:
        turn = reader.readframes(reader.getnframes()) + bytes(2 * int(pause * 16_000))
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((1, 2, 16_000, 0, "NONE", ""))
        writer.writeframes(turn * count)
    return file.getvalue()


@pytest.mark.parametrize(("count", "pause", "seconds"), [(14, 3.0, 70.0), (20, 0.5, 50.0)])
def test_a_long_recording_goes_through_several_windows(polyglot, count, pause, seconds):
    client = polyglot.openai()
    how = {"model": "whisper", "language": "en", "response_format": "verbose_json"}
    answer = client.audio.transcriptions.create(file=("a.wav", turns(count, pause)), **how)
    assert answer.duration == seconds
    starts = [segment.start for segment in answer.segments]
    assert starts == sorted(starts)
    assert starts[0] < 20
    assert starts[-1] > 20
    assert all(segment.start <= segment.end <= seconds + 0.1 for segment in answer.segments)


def test_what_counts_as_speech_can_be_said(speech, voice):
    strict = ask(speech, file=voice, **{"chunking_strategy[type]": "server_vad", "chunking_strategy[threshold]": "0.95"})
    assert strict.status_code == 200
    assert ask(speech, file=voice, chunking_strategy="auto").status_code == 200
    assert ask(speech, file=voice, chunking_strategy='{"type": "server_vad", "silence_duration_ms": 500}').status_code == 200


BAD = [
    ({"language": "de"}, "language", "invalid_value", "understands 'en'"),
    ({"language": "english please"}, "language", "invalid_value", "understands 'en'"),
    ({"response_format": "yaml"}, "response_format", "invalid_value", "expected"),
    ({"response_format": "diarized_json"}, "response_format", "invalid_value", "expected"),
    ({"temperature": "2"}, "temperature", "invalid_value", "at most 1"),
    ({"temperature": "warm"}, "temperature", None, "temperature"),
    ({"temperature": "nan"}, "temperature", None, "temperature"),
    ({"stream": "yes"}, "stream", "invalid_value", "true or false"),
    ({"stream": "true", "response_format": "srt"}, "response_format", "invalid_value", "json or text"),
    ({"timestamp_granularities[]": "word"}, "timestamp_granularities", "invalid_value", "verbose_json"),
    ({"timestamp_granularities[]": "letter", "response_format": "verbose_json"}, "timestamp_granularities[][0]", "invalid_value", "word"),
    ({"include[]": "logprobs"}, "include[]", "unsupported_parameter", "not supported"),
    ({"known_speaker_names[]": "Ann"}, "known_speaker_names[]", "unsupported_parameter", "not supported"),
    ({"keywords[]": "Modelyard"}, "keywords[]", "unsupported_parameter", "not supported"),
    ({"chunking_strategy": "manual"}, "chunking_strategy.type", "invalid_value", "expected"),
    ({"chunking_strategy": "{"}, "chunking_strategy", "invalid_value", "JSON"),
    (
        {"chunking_strategy[type]": "server_vad", "chunking_strategy[threshold]": "7"},
        "chunking_strategy.threshold",
        "invalid_value",
        "0.95",
    ),
    ({"prompt": "x" * 9000}, "prompt", "invalid_value", "8192"),
    ({"prompt": "x" * 20_000}, "prompt", "invalid_value", "longer than"),
    ({"max_tokens": "5"}, "max_tokens", "unknown_parameter", "Remove it"),
    ({"model": "other"}, "model", "model_not_found", "does not exist"),
    ({"model": ""}, "model", "missing_required_parameter", "Missing"),
    ({"model": ["whisper", "whisper"]}, "model", "invalid_value", "twice"),
]


@pytest.mark.parametrize("row", BAD, ids=lambda row: str(row[0])[:40])
def test_a_wrong_field_is_named(speech, voice, row):
    fields, param, code, says = row
    answer = ask(speech, file=voice, **fields)
    error = answer.json()["error"]
    assert answer.status_code == (404 if code == "model_not_found" else 400)
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert code is None or error["code"] == code
    assert says in error["message"]


def test_a_wrong_body_is_told(speech, voice):
    def post(**how):
        answer = httpx.post(speech.url + PATH, **how)
        assert answer.status_code == 400
        return answer.json()["error"]

    assert "multipart/form-data" in post(json={"model": "whisper"})["message"]
    assert "multipart/form-data" in post(content=b"")["message"]
    assert post(data={"model": "whisper"}, files={"other": ("a", b"x")})["param"] == "other"
    missing = post(files={"model": (None, "whisper")})
    assert (missing["param"], missing["code"]) == ("file", "missing_required_parameter")
    plain = post(files={"model": (None, "whisper"), "file": (None, "abc")})
    assert (plain["param"], plain["code"]) == ("file", "invalid_type")
    twice = post(data={"model": "whisper"}, files=[("file", ("a.wav", voice)), ("file", ("b.wav", voice))])
    assert "twice" in twice["message"]
    empty = post(data={"model": "whisper"}, files={"file": ("a.wav", b"")})
    assert (empty["param"], empty["code"]) == ("file", "invalid_audio")
    part = b"--x\r\nContent-Disposition: form-data; name=model\r\n\r\nwh"
    cut = post(headers={"content-type": "multipart/form-data; boundary=x"}, content=part)
    assert "ends before" in cut["message"]


def test_an_english_model_does_not_translate(speech, voice):
    answer = ask(speech, "/v1/audio/translations", file=voice)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, "model", "unsupported_capability")
    assert ask(speech, "/v1/audio/translations", file=voice, language="en").json()["error"]["code"] == "unknown_parameter"


BAD_TRANSLATIONS = [
    ({"model": ""}, 400, "model", "missing_required_parameter", "Missing"),
    ({"model": "other"}, 404, "model", "model_not_found", "does not exist"),
    ({"language": "en"}, 400, "language", "unknown_parameter", "Remove it"),
    ({"stream": "true"}, 400, "stream", "unknown_parameter", "Remove it"),
    ({"timestamp_granularities[]": "word"}, 400, "timestamp_granularities[]", "unknown_parameter", "Remove it"),
    ({"response_format": "yaml"}, 400, "response_format", "invalid_value", "expected"),
    ({"temperature": "-1"}, 400, "temperature", "invalid_value", "at least 0"),
    ({"temperature": ["0", "1"]}, 400, "temperature", "invalid_value", "twice"),
    ({"prompt": "x" * 9000}, 400, "prompt", "invalid_value", "8192"),
    ({"file": b""}, 400, "file", "invalid_audio", "empty"),
    ({"file": bytes(1000)}, 400, "file", "invalid_audio", "file"),
]


@pytest.mark.parametrize("row", BAD_TRANSLATIONS, ids=lambda row: str(row[0])[:40])
def test_a_wrong_field_of_a_translation_is_named(polyglot, voice, row):
    fields, status, param, code, says = row
    answer = ask(polyglot, "/v1/audio/translations", **{"file": voice} | fields)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"]) == (status, "invalid_request_error")
    assert (error["param"], error["code"]) == (param, code)
    assert says in error["message"]


def test_a_file_that_cannot_be_read_harms_nobody(speech, voice, encoded):
    for data in (encoded("flac", 4.0)[:20_000], b"RIFF" + bytes(4) + b"WAVE" + bytes(50), bytes(1000)):
        answer = ask(speech, file=data, stream="true")
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_audio")
    assert ask(speech, file=voice).json()["text"]


def test_other_models_say_that_they_hear_nothing(chat, voice):
    answer = ask(chat, file=voice, model=chat.name)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported_capability")


def test_bounds_of_bytes_and_seconds(start, converted, voice, encoded):
    server = start(f"file://{converted}", served_model_name="whisper", beam_size=1, max_audio_bytes=200_000, max_audio_seconds=2)
    assert ask(server, file=voice).status_code == 200
    long = ask(server, file=encoded("mp3", 2.6))
    assert (long.status_code, long.json()["error"]["code"]) == (400, "audio_too_long")
    assert "--max-audio-seconds" in long.json()["error"]["message"]
    assert ask(server, file=bytes(600_000)).status_code == 413
    assert httpx.post(f"{server.url}/v1/chat/completions", content=b" " * (17 << 20)).status_code == 413


def test_seconds_and_waits_are_counted(speech, voice):
    seconds = speech.metric("audio_seconds_total")
    tokens = speech.metric("generation_tokens_total")
    waits = speech.metric("request_queue_time_seconds_count")
    ask(speech, file=voice)
    assert speech.metric("audio_seconds_total") == seconds + 2.0
    assert speech.metric("generation_tokens_total") > tokens
    assert speech.metric("request_queue_time_seconds_count") == waits + 1


def test_a_full_queue_refuses_and_a_client_that_leaves_makes_room(start, multilingual, until):
    server = start(f"file://{multilingual}", served_model_name="whisper", beam_size=16, max_concurrency=1, max_queue=0)
    long = sample_file(400.0)

    async def leave():
        async with httpx.AsyncClient() as client:
            request = asyncio.create_task(
                client.post(server.url + PATH, data={"model": "whisper", "language": "en"}, files={"file": ("a.wav", long)}, timeout=120)
            )
            await asyncio.to_thread(until, lambda: server.metric("num_requests_running") == 1, "the long request runs")
            refused = await client.post(server.url + PATH, data={"model": "whisper"}, files={"file": ("a.wav", long[:1000])})
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
            request.cancel()
            with pytest.raises(asyncio.CancelledError):
                await request

    asyncio.run(leave())
    until(lambda: server.metric("num_requests_running") == 0, "its place is free")
    assert server.metric("request_success_total", finished_reason="abort") == 1
    assert ask(server, file=sample_file(1.0)).status_code == 200


def test_a_server_that_is_told_to_end_finishes_what_it_reads(start, converted, until):
    server = start(f"file://{converted}", served_model_name="whisper", beam_size=4)
    answers = []
    client = threading.Thread(target=lambda: answers.append(ask(server, file=sample_file(40.0))))
    client.start()
    until(lambda: server.metric("num_requests_running") == 1 or bool(answers), "the request runs")
    server.told()
    client.join()
    assert answers[0].status_code == 200
    assert server.join() is None
