"""``/v1/audio/transcriptions`` and ``/v1/audio/translations``."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any, Literal, Self

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from modelyard_runtime import strict_json
from modelyard_runtime.api import sse
from modelyard_runtime.api.access import transcription
from modelyard_runtime.api.fields import ModelName, invalid, unsupported
from modelyard_runtime.api.forms import Form, form_schema, read_form
from modelyard_runtime.api.responses import json_response
from modelyard_runtime.api.sse import EventStream
from modelyard_runtime.serving.wish import Heard, Wish
from modelyard_runtime.speech.base import Segment
from modelyard_runtime.speech.render import segment_object, srt, text_of, vtt, word_objects
from modelyard_runtime.speech.sensitivity import Sensitivity

router = APIRouter()

TRANSCRIPTIONS, TRANSLATIONS = "/v1/audio/transcriptions", "/v1/audio/translations"
PATHS = (TRANSCRIPTIONS, TRANSLATIONS)
_ANSWERS: dict[int | str, dict[str, Any]] = {200: {"content": {"application/json": {}, "text/plain": {}, "text/event-stream": {}}}}
Parts = AsyncGenerator[Heard | list[Segment], None]


def _flag(value: Any) -> Any:
    if value not in ("true", "false"):
        raise invalid("expected true or false")
    return value == "true"


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _object(value: Any) -> Any:
    """Returns an object that was sent as JSON; ``auto`` and the fields of a form as they are."""
    if not isinstance(value, str) or not value.startswith("{"):
        return {"type": value} if isinstance(value, str) else value
    try:
        return strict_json.loads(value)
    except orjson.JSONDecodeError:
        raise invalid("expected auto, or a JSON object with type server_vad") from None


class Chunking(BaseModel):
    """How recordings are cut: always where nobody speaks, and here what counts as that. Milliseconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["auto", "server_vad"]
    threshold: Annotated[float, Field(ge=0.05, le=0.95, allow_inf_nan=False)] = 0.5
    silence_duration_ms: Annotated[int, Field(ge=100, le=10_000)] = 2000
    prefix_padding_ms: Annotated[int, Field(ge=0, le=2000)] = 400


Unsupported = Annotated[Any, unsupported()]
_STRATEGY = {"anyOf": [{"type": "string", "enum": ["auto"]}, {"type": "object", "properties": {"type": {"enum": ["server_vad"]}}}]}


class SpeechForm(Form):
    """What both endpoints take."""

    model: ModelName
    prompt: Annotated[str, Field(max_length=8192)] = ""
    response_format: Literal["json", "text", "srt", "verbose_json", "vtt"] = "json"
    temperature: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.0

    @property
    def wants_words(self) -> bool:
        """Whether words are told with their times."""
        return False

    @property
    def wants_segments(self) -> bool:
        """Whether `verbose_json` has segments."""
        return True


class TranscriptionForm(SpeechForm):
    """A transcription request."""

    language: Annotated[str, Field(min_length=2, max_length=32)] | None = None
    stream: Annotated[bool, BeforeValidator(_flag)] = False
    timestamp_granularities: Annotated[
        list[Literal["word", "segment"]], Field(alias="timestamp_granularities[]", max_length=2), BeforeValidator(_listed)
    ] = []  # noqa: RUF012 - pydantic copies it
    chunking_strategy: Annotated[Chunking, BeforeValidator(_object), WithJsonSchema(_STRATEGY)] = Chunking(type="auto")
    include: Annotated[Unsupported, Field(alias="include[]")] = None
    known_speaker_names: Annotated[Unsupported, Field(alias="known_speaker_names[]")] = None
    known_speaker_references: Annotated[Unsupported, Field(alias="known_speaker_references[]")] = None
    keywords: Annotated[Unsupported, Field(alias="keywords[]")] = None
    languages: Annotated[Unsupported, Field(alias="languages[]")] = None

    @model_validator(mode="after")
    def _formats_fit(self) -> Self:
        if self.timestamp_granularities and self.response_format != "verbose_json":
            raise invalid("only allowed with response_format: verbose_json", "timestamp_granularities")
        if self.stream and self.response_format not in ("json", "text"):
            raise invalid("a stream has response_format json or text", "response_format")
        return self

    @property
    def wants_words(self) -> bool:
        """Whether words are told with their times."""
        return "word" in self.timestamp_granularities

    @property
    def wants_segments(self) -> bool:
        """Whether `verbose_json` has segments; as with OpenAI, unless only words are asked for."""
        return not self.timestamp_granularities or "segment" in self.timestamp_granularities

    @property
    def sensitivity(self) -> Sensitivity:
        """What counts as speech."""
        how = self.chunking_strategy
        return Sensitivity(how.threshold, how.silence_duration_ms / 1000, how.prefix_padding_ms / 1000)


@router.post(TRANSCRIPTIONS, openapi_extra=form_schema(TranscriptionForm), responses=_ANSWERS)
async def transcriptions(request: Request) -> Response:
    """Answers with what is said in a file, whole or as it is read."""
    form, file = await read_form(request, TranscriptionForm)
    service = await transcription(request, form.model)
    wish = Wish(
        language=form.language and form.language.lower(),
        prompt=form.prompt,
        temperature=form.temperature,
        words=form.wants_words,
        sensitivity=form.sensitivity,
    )
    parts = service.transcribe(file, wish)
    if not form.stream:
        return await _whole(parts, form, "transcribe")
    heard = await anext(parts)  # what is wrong with the file still gets a status of its own
    assert isinstance(heard, Heard)
    return EventStream(_events(parts, heard))


@router.post(TRANSLATIONS, openapi_extra=form_schema(SpeechForm), responses=_ANSWERS)
async def translations(request: Request) -> Response:
    """Answers with what is said in a file, in English."""
    form, file = await read_form(request, SpeechForm)
    service = await transcription(request, form.model)
    wish = Wish(translate=True, prompt=form.prompt, temperature=form.temperature)
    return await _whole(service.transcribe(file, wish), form, "translate")


async def _whole(parts: Parts, form: SpeechForm, task: str) -> Response:
    segments: list[Segment] = []
    async with aclosing(parts):
        heard = await anext(parts)
        assert isinstance(heard, Heard)
        async for part in parts:
            assert isinstance(part, list)
            segments += part
    match form.response_format:
        case "text":
            return PlainTextResponse(text_of(segments) + "\n")
        case "srt":
            return PlainTextResponse(srt(segments))
        case "vtt":
            return PlainTextResponse(vtt(segments))
    usage = {"type": "duration", "seconds": math.ceil(heard.seconds)}
    if form.response_format == "json":
        return json_response({"text": text_of(segments), "usage": usage})
    language = "english" if task == "translate" else heard.language_name
    answer: dict[str, Any] = {"task": task, "language": language, "duration": round(heard.seconds, 3), "text": text_of(segments)}
    if form.wants_segments:
        answer["segments"] = [segment_object(number, segment) for number, segment in enumerate(segments)]
    if form.wants_words:
        answer["words"] = word_objects(segments)
    return json_response(answer | {"usage": usage})


async def _events(parts: Parts, heard: Heard) -> AsyncGenerator[bytes, None]:
    """Yields a delta for each segment, then the whole text and what it took."""
    text, tokens = "", 0
    async with aclosing(parts):
        async for part in parts:
            assert isinstance(part, list)
            for segment in part:
                delta = segment.text if text else segment.text.lstrip()
                text += delta
                tokens += len(segment.tokens)
                yield sse.event({"type": "transcript.text.delta", "delta": delta})
    yield sse.event({"type": "transcript.text.done", "text": text, "usage": _tokens(heard, tokens)})


def _tokens(heard: Heard, output: int) -> dict[str, Any]:
    entered = heard.audio_tokens + heard.prompt_tokens
    return {
        "type": "tokens",
        "input_tokens": entered,
        "input_token_details": {"audio_tokens": heard.audio_tokens, "text_tokens": heard.prompt_tokens},
        "output_tokens": output,
        "total_tokens": entered + output,
    }
