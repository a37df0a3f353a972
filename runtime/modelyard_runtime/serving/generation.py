"""Generation as the endpoints use it: bounds on prompts and answers, the limiter, metrics."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelyard.api.errors import InternalError, InvalidRequest

from modelyard_runtime.engine.base import EngineFailed, GenerationRequest, RequestFailed, SamplingParams
from modelyard_runtime.engine.engine import TransformersEngine
from modelyard_runtime.engine.settings import EngineSettings
from modelyard_runtime.errors import UnsupportedModel
from modelyard_runtime.metrics import Load, Metrics, Stopwatch
from modelyard_runtime.models.chat import ChatModel, TextDelta
from modelyard_runtime.models.loading import load_causal_lm
from modelyard_runtime.progress import Phase, Report, Step
from modelyard_runtime.serving.families import Context
from modelyard_runtime.serving.limiter import CHARACTERS_PER_TOKEN, Limiter
from modelyard_runtime.serving.merge import merge
from modelyard_runtime.settings import ServeSettings


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bounds in tokens; ``context`` holds prompt and answer, ``vocabulary`` is above every token id."""

    context: int
    vocabulary: int
    prompt: int | None = None
    answer: int | None = None


@dataclass(frozen=True, slots=True)
class LoadedChat:
    """A decoder with its engine: ``sequences`` run at once, token ids are below ``vocabulary``."""

    model: ChatModel
    sequences: int
    vocabulary: int


def load(folder: Path, settings: ServeSettings, capabilities: tuple[str, ...], report: Report) -> LoadedChat:
    """Loads a decoder and makes its engine. Raises RuntimeFailed."""
    loaded = load_causal_lm(
        folder, dtype=settings.dtype, device=settings.device, progress=lambda fraction: report(Step(Phase.LOAD, fraction))
    )
    bounds = EngineSettings(max_model_length=settings.max_model_length, max_concurrent_sequences=settings.max_concurrent_sequences)
    engine = TransformersEngine(loaded, bounds)
    model = ChatModel(engine, loaded.tokenizer)
    if "chat" in capabilities and not model.has_template:
        raise UnsupportedModel(
            "the model has no chat template", "serve it with --capability completions, or add chat_template.jinja to the weights"
        )
    return LoadedChat(model, engine.capacity.sequences, loaded.vocabulary_size)


def serve(loaded: LoadedChat, context: Context) -> GenerationService:
    """Starts the engine and makes its service."""
    settings, engine = context.settings, loaded.model.engine
    engine.start()
    bounds = Bounds(engine.max_model_length, loaded.vocabulary, settings.max_prompt_tokens, settings.max_new_tokens)
    return GenerationService(loaded.model, context.limiter(loaded.sequences), bounds, context.metrics, context.on_death)


class GenerationService:
    """A chat model behind its limiter. Used from one event loop."""

    def __init__(self, model: ChatModel, limiter: Limiter, bounds: Bounds, metrics: Metrics, on_death: Callable[[EngineFailed], None]):
        self.model = model
        self.limiter = limiter
        self.bounds = bounds
        self._metrics = metrics
        self._on_death = on_death

    @property
    def max_length(self) -> int:
        """Longest prompt plus answer, in tokens."""
        return self.bounds.context

    def load(self) -> Load:
        """Returns what is going on, in the limiter and in the engine."""
        stats = self.model.engine.stats()
        return Load(stats.running, stats.waiting + self.limiter.waiting, stats.kv_cache_usage)

    def describe(self) -> dict[str, Any]:
        """Returns what ``/v1/models`` adds about the model."""
        return {"max_model_len": self.max_length}

    async def stop(self) -> None:
        """Ends the engine's thread."""
        await self.model.engine.stop()

    async def encode_chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Returns the token ids of a conversation. Raises InvalidRequest when it is too long or the model's template refuses it."""
        self.limiter.check()
        self._check_characters(sum(len(message["content"]) for message in messages), "messages")
        return await self.model.encode_chat(messages)

    async def encode(self, prompt: str | list[int]) -> list[int]:
        """Returns the token ids of a text, or checks those given. Raises InvalidRequest when they are too long or out of vocabulary."""
        self.limiter.check()
        if isinstance(prompt, str):
            self._check_characters(len(prompt), "prompt")
            return await self.model.encode(prompt)
        if max(prompt) >= self.bounds.vocabulary:
            raise InvalidRequest(
                f"Token ids of this model are below {self.bounds.vocabulary}, and the prompt has {max(prompt)}. Send text.",
                param="prompt",
                code="invalid_value",
            )
        return prompt

    def room(self, prompt: Sequence[int], wanted: int | None, *, prompt_param: str, default: int | None = None) -> int:
        """Returns how many tokens the answer may have. Raises InvalidRequest when prompt and answer are out of bounds."""
        bounds = self.bounds
        if not prompt:
            raise InvalidRequest(f"'{prompt_param}' has no tokens. Send at least one.", param=prompt_param, code="invalid_value")
        if bounds.prompt is not None and len(prompt) > bounds.prompt:
            raise _too_long(
                f"This server takes prompts of {bounds.prompt} tokens at most, and this one has {len(prompt)}. Shorten it.", prompt_param
            )
        if wanted is not None and bounds.answer is not None and wanted > bounds.answer:
            raise InvalidRequest(
                f"This server gives {bounds.answer} new tokens at most. Lower 'max_tokens'.", param="max_tokens", code="invalid_value"
            )
        left = bounds.context - len(prompt)
        if left < (wanted or 1):
            asked = f"{len(prompt)} in {prompt_param}" + (f", {wanted} in the completion" if wanted else "")
            raise _too_long(
                f"This model's maximum context length is {bounds.context} tokens, and you asked for {len(prompt) + (wanted or 1)} tokens "
                f"({asked}). Shorten {prompt_param}{' or lower max_tokens' if wanted else ''}.",
                prompt_param,
            )
        return min(left, wanted or default or left, bounds.answer or left)

    async def generate(self, request: GenerationRequest, stop: Sequence[str]) -> AsyncGenerator[TextDelta, None]:
        """Yields the answer as it comes. Closing the iterator cancels the request, in the queue or in the engine."""
        async with aclosing(self.generate_each([request], stop)) as deltas:
            async for _, delta in deltas:
                yield delta

    async def generate_each(
        self, requests: Sequence[GenerationRequest], stop: Sequence[str]
    ) -> AsyncGenerator[tuple[int, TextDelta], None]:
        """Yields (index, delta) of several answers as they come. Together they are one request to the limiter; the engine queues them."""
        watches = [Stopwatch(self._metrics, len(request.prompt_token_ids)) for request in requests]
        try:
            async with self.limiter.slot():
                answers = [self._answer(request, stop, watch) for request, watch in zip(requests, watches, strict=True)]
                async with aclosing(merge(answers)) as deltas:
                    async for item in deltas:
                        yield item
        finally:
            for watch in watches:
                watch.ended()

    async def _answer(self, request: GenerationRequest, stop: Sequence[str], watch: Stopwatch) -> AsyncGenerator[TextDelta, None]:
        watch.begun()
        try:
            async with aclosing(self.model.generate(request.request_id, request.prompt_token_ids, request.sampling, stop)) as deltas:
                async for delta in deltas:
                    watch.tokens(len(delta.token_ids))
                    if delta.finish_reason is not None:
                        watch.finished(delta.finish_reason)
                    yield delta
        except EngineFailed as error:
            raise self._failure(error) from error

    def _failure(self, error: EngineFailed) -> Exception:
        """Returns what the client hears: of the engine's death, or of a failure that is this request's alone."""
        if isinstance(error, RequestFailed):
            return InternalError(f"{error}. Change the prompt, or try another model.", code="generation_failed")
        if self.model.engine.failure is not None:
            self._on_death(self.model.engine.failure)
        return error

    async def warm_up(self) -> None:
        """Runs the engine's paths, and one short text through tokenizer and detokeniser."""
        await self.model.engine.warm_up()
        prompt = await self.model.encode("warm-up")
        async with aclosing(self.model.generate("warm-up", prompt, SamplingParams(temperature=0.0, max_tokens=2), [])) as deltas:
            async for _ in deltas:
                pass

    def _check_characters(self, count: int, param: str) -> None:
        """Refuses what cannot fit before it is tokenised."""
        if count > self.bounds.context * CHARACTERS_PER_TOKEN:
            raise _too_long(
                f"This model's maximum context length is {self.bounds.context} tokens, and {param} has {count} characters. Shorten it.",
                param,
            )


def _too_long(message: str, param: str) -> InvalidRequest:
    return InvalidRequest(message, param=param, code="context_length_exceeded")
