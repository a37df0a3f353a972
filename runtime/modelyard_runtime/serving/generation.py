"""Generation as the endpoints use it: the limiter, bounds on prompts and answers, how the model is talked to, metrics."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import ExitStack, aclosing
from copy import copy
from dataclasses import dataclass, replace
from hashlib import blake2b
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from modelyard import __version__
from modelyard.api.errors import InternalError, InvalidRequest, ModelNotFound

from modelyard_runtime.engine.base import GenerationRequest, GrammarFailed, NotHonoured, RequestFailed, SamplingParams, UnknownAdapter
from modelyard_runtime.engine.engine import TransformersEngine
from modelyard_runtime.engine.lora import ADAPTER_CONFIG
from modelyard_runtime.engine.media import Media
from modelyard_runtime.errors import RuntimeFailed, UnsupportedModel
from modelyard_runtime.hardware import helpers
from modelyard_runtime.loads import Load
from modelyard_runtime.metrics import Stopwatch
from modelyard_runtime.models.answer_reader import AnswerReader
from modelyard_runtime.models.chat import ChatModel
from modelyard_runtime.models.prompt import ChatPrompt, Picture
from modelyard_runtime.models.templates import TemplateRefused
from modelyard_runtime.models.text import TextDelta
from modelyard_runtime.models.vision import Pixels, Vision
from modelyard_runtime.observation import observed
from modelyard_runtime.progress import Report
from modelyard_runtime.serving.bounds import Bounds
from modelyard_runtime.serving.codec import PromptCodec
from modelyard_runtime.serving.engines import choose
from modelyard_runtime.serving.families import Context
from modelyard_runtime.serving.generation_ways import ways
from modelyard_runtime.serving.limiter import Limiter
from modelyard_runtime.serving.loading import fetch
from modelyard_runtime.serving.merge import merge
from modelyard_runtime.serving.sampling import SamplingDefaults, choice_seed, sampling_defaults, taken
from modelyard_runtime.serving.speech import Speech
from modelyard_runtime.serving.warmup import Way
from modelyard_runtime.settings import ServeSettings

if TYPE_CHECKING:
    from modelyard_runtime.serving.sight import Sight

logger = logging.getLogger(__name__)

#: What requests may always set in a chat template.
_TEMPLATE_VARIABLES = frozenset({"enable_thinking", "thinking", "reasoning_effort"})


@dataclass(frozen=True, slots=True)
class Manner:
    """How a model may be talked to.

    ``defaults`` of sampling; ``choices`` of a request at most; ``variables`` of the chat template that a request may set;
    ``fingerprint``, which changes with whatever may change what a seed gives.
    """

    defaults: SamplingDefaults
    choices: int
    variables: frozenset[str]
    fingerprint: str


@dataclass(frozen=True, slots=True)
class LoadedChat:
    """A decoder with its engine: ``sequences`` run at once, token ids are below ``vocabulary``; ``engine`` is for its status.

    ``device`` is the kind that computes it, as PyTorch calls it.
    """

    model: ChatModel
    sequences: int
    vocabulary: int
    manner: Manner
    vision: Vision | None
    speech: Speech
    engine: dict[str, Any]
    device: str


def load(folder: Path, settings: ServeSettings, capabilities: tuple[str, ...], report: Report) -> LoadedChat:
    """Loads a decoder and makes its engine. Raises RuntimeFailed."""
    chosen = choose(folder, settings, capabilities, report)
    loaded, engine = chosen.model, chosen.engine
    vision = None
    if "vision" in capabilities:
        import_module("modelyard_runtime.serving.sight")  # a fifth of a second, which only models that see need, and no event loop
        vision = Vision.of(folder, loaded.model)
    for given in settings.adapter:
        name, _, source = given.partition("=")
        assert isinstance(engine, TransformersEngine)
        load_adapter(engine, name, source, settings, report)
    model = ChatModel(engine, loaded.tokenizer, helpers(loaded.device.type))
    with ExitStack() as unfinished:
        unfinished.callback(model.close)
        if "chat" in capabilities:
            _check_template(model)
        manner = _manner(folder, settings, str(loaded.dtype), chosen.takes)
        speech = Speech(loaded, settings, bounds=chosen.takes is None)
        unfinished.pop_all()
    return LoadedChat(model, engine.capacity.sequences, loaded.vocabulary_size, manner, vision, speech, chosen.shown(), loaded.device.type)


def load_adapter(engine: TransformersEngine, name: str, source: str, settings: ServeSettings, report: Report) -> None:
    """Fetches an adapter and gives it to an engine. Blocks. Raises RuntimeFailed."""
    try:
        folder = fetch(source, settings, report, ADAPTER_CONFIG)
    except RuntimeFailed as failure:
        told = failure.message.removeprefix("--model: ")
        raise type(failure)(f"adapter {name!r}: {told}", f"check its source in spec.engine.adapters, or --adapter {name}=…") from failure
    engine.adapters.load(name, folder)


def serve(loaded: LoadedChat, context: Context) -> GenerationService:
    """Starts the engine and makes its service."""
    longest, asked = loaded.model.engine.max_model_length, context.settings.max_model_length
    if asked is not None and asked > longest:
        logger.warning("--max-model-length=%d is more than this model takes; requests have %d tokens", asked, longest)
    loaded.model.engine.start(context.on_death)
    return GenerationService(loaded, context)


class GenerationService:
    """A chat model behind its limiters, and its prompts behind one of their own. Used from one event loop.

    ``capability`` is what its requests ask for; see `asked`.
    """

    def __init__(self, loaded: LoadedChat, context: Context):
        settings = context.settings
        self.model = loaded.model
        self.lora: str | None = None
        self._engine = loaded.engine
        self._settings = settings
        self.manner = loaded.manner
        self.speech = loaded.speech
        self._places = context.places(loaded.sequences)
        self.limiter = context.limiters(loaded.sequences, self._places)
        self.capability = context.capabilities[0]
        self._talks = "chat" in context.capabilities
        self.bounds = Bounds(loaded.model.engine.max_model_length, loaded.vocabulary, settings.max_prompt_tokens, settings.max_new_tokens)
        timeout = settings.queue_timeout.total_seconds()
        readers, waiting = loaded.model.reader.threads, context.admitted(loaded.sequences)
        self._reading = Limiter(concurrency=readers, max_queue=waiting, queue_timeout=timeout)
        self._device = loaded.device
        self._sight = None if loaded.vision is None else _sight(loaded.vision, settings, self.bounds, readers)
        self.codec = PromptCodec(loaded.model.reader, self.bounds, self._reading)
        self._metrics = context.metrics

    @property
    def max_length(self) -> int:
        """Longest prompt plus answer, in tokens."""
        return self.bounds.context

    def load(self) -> Load:
        """Returns what is going on, in the limiter and in the engine."""
        stats = self.model.engine.stats()
        by_capability = self.limiter.by_capability()
        # Those who have their turn and wait for a place among the engine's sequences are waiting too.
        waiting = stats.waiting + self.limiter.waiting + self._places.waiting
        return Load(stats.running, waiting, stats.kv_cache_usage, stats, by_capability)

    def describe(self) -> dict[str, Any]:
        """Returns what ``/v1/models`` adds about the model."""
        dialect = {"dialect": self.speech.dialect.shown()} if self._talks else {}
        return {"max_model_len": self.max_length, "engine": self._engine, **dialect}

    async def stop(self) -> None:
        """Ends the engine's thread, and those that read prompts."""
        self.model.close()
        self.speech.close()
        if self._sight is not None:
            self._sight.close()
        await self.model.engine.stop()

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the adapters that requests may ask for."""
        return self.model.engine.adapter_names

    def load_adapter(self, name: str, source: str, report: Report) -> None:
        """Fetches an adapter and puts it in force, in place of an earlier one of its name. Blocks. Raises RuntimeFailed."""
        engine = self.model.engine
        if not isinstance(engine, TransformersEngine):
            raise UnsupportedModel("this model runs outside of the batching engine, where adapters cannot be applied")
        load_adapter(engine, name, source, self._settings, report)

    def unload_adapter(self, name: str) -> None:
        """Forgets an adapter; requests that run with it finish with it. Raises KeyError when there is none of the name."""
        engine = self.model.engine
        if not isinstance(engine, TransformersEngine):
            raise KeyError(name)
        engine.adapters.unload(name)

    def adapted(self, adapter: str) -> GenerationService:
        """Returns the service with one of the model's adapters in force for every request."""
        service = copy(self)
        service.lora = adapter
        return service

    def asked(self, capability: str) -> GenerationService:
        """Returns the service for requests that ask for a capability: they pass its limiter."""
        service = copy(self)
        service.capability = observed().capability = capability
        return service

    async def encode_chat(self, prompt: ChatPrompt) -> list[int]:
        """Returns the token ids of a conversation. Raises InvalidRequest when it is too long or the model's template refuses it."""
        self.limiter[self.capability].check()
        self.bounds.check_characters(prompt.characters, "messages")
        async with self._reading.slot():
            return await self.model.reader.chat(prompt)

    async def encode(self, prompt: str | list[int]) -> list[int]:
        """Returns the token ids of a text, or checks those given. Raises InvalidRequest when they are too long or out of vocabulary."""
        self.limiter[self.capability].check()
        if not isinstance(prompt, str):
            self.bounds.check_tokens(prompt, "prompt", "Send text.")
            return prompt
        self.bounds.check_characters(len(prompt), "prompt")
        async with self._reading.slot():
            return await self.model.reader.text(prompt)

    def check_pictures(self, pictures: Sequence[Picture]) -> None:
        """Raises InvalidRequest when there are images and the model sees none."""
        if pictures and self._sight is None:
            raise InvalidRequest(
                "This model takes text only. Send no images, or ask a vision model.", param=pictures[0].param, code="invalid_value"
            )

    async def look(self, prompt: list[int], pictures: Sequence[Picture]) -> tuple[list[int], Pixels]:
        """Returns a conversation's tokens with room for its images, and the images. Raises InvalidRequest."""
        assert self._sight is not None
        return await self._sight.look(prompt, pictures)

    async def media(self, prompt: list[int], pixels: Pixels) -> Media:
        """Returns what stands for the images of a prompt that `look` returned."""
        assert self._sight is not None
        return await self._sight.media(prompt, pixels)

    def choices(
        self,
        request_id: str,
        prompt: list[int],
        sampling: SamplingParams,
        count: int = 1,
        *,
        param: str = "n",
        media: Media | None = None,
    ) -> list[GenerationRequest]:
        """Returns a request for each of ``count`` answers to a prompt. Raises InvalidRequest when they cannot be computed."""
        if count > self.manner.choices:
            raise InvalidRequest(
                f"This server gives {self.manner.choices} choices to a prompt at most, and {count} were asked for. Lower '{param}'.",
                param=param,
                code="invalid_value",
            )
        self.bounds.check_tokens(sampling.logit_bias, "logit_bias", "Leave it out.")
        try:
            self.model.engine.check(sampling)
        except NotHonoured as refusal:
            raise self._invalid(refusal) from refusal
        return [
            GenerationRequest(
                f"{request_id}-{choice}", prompt, replace(sampling, seed=choice_seed(sampling.seed, choice)), self.lora, media
            )
            for choice in range(count)
        ]

    async def generate_each(
        self,
        requests: Sequence[GenerationRequest],
        stop: Sequence[str] = (),
        visible: frozenset[int] = frozenset(),
        readers: Sequence[AnswerReader] | None = None,
        *,
        prompts: int = 1,
    ) -> AsyncGenerator[tuple[int, TextDelta], None]:
        """Yields (index, delta) of several answers as they come. Together they are one request to the limiter; the engine queues them.

        ``stop`` and ``visible`` are as in `ChatModel.generate`, and so is each answer's reader. Of several ``prompts``, which have as many
        answers each, metrics count every one as a request, as vLLM does. Closing the iterator cancels all, in the queue or in the engine.
        """
        watches = [Stopwatch(self._metrics, len(request.prompt_token_ids), self.capability) for request in requests]
        count = len(requests) // prompts
        for request in requests[::count]:
            self._metrics.asked(max_tokens=request.sampling.max_tokens, n=count)
        try:
            async with self.limiter[self.capability].slot():
                each: Sequence[AnswerReader | None] = readers or [None] * len(requests)
                streams = [self.model.generate(request, stop, visible, reader) for request, reader in zip(requests, each, strict=True)]
                answers = [self._watched(stream, watch) for stream, watch in zip(streams, watches, strict=True)]
                async with aclosing(merge(answers)) as deltas:
                    async for item in deltas:
                        yield item
        finally:
            for watch in watches:
                watch.ended()
            for first in range(0, len(watches), count):
                self._metrics.answered(max(watch.generated for watch in watches[first : first + count]))

    def ways(self, capability: str) -> tuple[Way, ...]:
        """Returns the ways of requests through the model, for warm-up."""
        return ways(self.asked(capability), capability, batch=self._settings.warmup_batch, device=self._device)

    def _invalid(self, refusal: NotHonoured) -> InvalidRequest:
        """Returns what a client sees; the prompt of a conversation is its messages."""
        param = "messages" if refusal.param == "prompt" and self.capability != "completions" else refusal.param
        return InvalidRequest(str(refusal), param=param, code="invalid_value")

    async def _watched(self, answer: AsyncGenerator[TextDelta, None], watch: Stopwatch) -> AsyncGenerator[TextDelta, None]:
        watch.begun()
        try:
            async with aclosing(answer) as deltas:
                async for delta in deltas:
                    watch.read(delta.events[0].cached_tokens)
                    if delta.token_ids:
                        watch.tokens(len(delta.token_ids))
                    if delta.finish_reason is not None:
                        watch.finished(delta.finish_reason)
                    yield delta
        except GrammarFailed as error:
            raise InvalidRequest(
                f"The answer cannot keep to what 'response_format' or 'tools' ask for: {error}. Simplify the schema.",
                param="response_format",
                code="invalid_value",
            ) from error
        except NotHonoured as refusal:
            raise self._invalid(refusal) from refusal
        except UnknownAdapter as error:  # it was there when the request came
            raise ModelNotFound(
                f"The adapter '{self.lora}' was removed a moment ago. Load it again, or ask the model itself.", param="model"
            ) from error
        except RequestFailed as error:
            raise InternalError(f"{error}. Change the prompt, or try another model.", code="generation_failed") from error


def _sight(vision: Vision, settings: ServeSettings, bounds: Bounds, decoders: int) -> Sight:
    from modelyard_runtime.serving.sight import Sight  # noqa: PLC0415 - see `load`

    return Sight(vision, settings, bounds, decoders)


def _check_template(model: ChatModel) -> None:
    if not model.reader.has_template:
        raise UnsupportedModel(
            "the model has no chat template", "serve it with --capability completions, or add chat_template.jinja to the weights"
        )
    try:
        model.reader.check_template()
    except TemplateRefused as refusal:
        raise UnsupportedModel(
            f"the model's chat template is broken: {refusal}",
            "repair chat_template.jinja in the weights, or serve them with --capability completions",
        ) from refusal


def _manner(folder: Path, settings: ServeSettings, dtype: str, takes: frozenset[str] | None) -> Manner:
    computed = f"{folder.name} {dtype} {__version__} {torch.__version__} {transformers.__version__}"
    defaults = sampling_defaults(folder, settings)
    return Manner(
        defaults if takes is None else taken(defaults, takes),
        settings.max_choices,
        _TEMPLATE_VARIABLES | set(settings.chat_template_kwargs),
        f"fp_{blake2b(computed.encode(), digest_size=5).hexdigest()}",
    )
