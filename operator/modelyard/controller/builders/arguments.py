"""From the fields of an InferenceModel to the flags of `modelyard-runtime serve`, `engine.args` behind them.

Fields that are not set leave the runtime's own default in force.
"""

import math
from datetime import timedelta

from modelyard.api import quantities
from modelyard.api.durations import render
from modelyard.api.engine import Engine
from modelyard.api.inference_model import InferenceModel
from modelyard.api.model import Generation, Media, Warmup
from modelyard.api.replicas import Limits
from modelyard.controller.builders.volumes import local_source

#: A flag and its value; None leaves it out.
Flag = tuple[str, object]


def arguments(model: InferenceModel) -> list[str]:
    """Returns the flags of `modelyard-runtime serve`."""
    spec = model.spec
    flags: list[Flag] = [
        ("model", local_source(spec.model.source)),
        ("served-model-name", model.metadata.name),
        *(("capability", capability.value) for capability in spec.model.capabilities),
        ("dtype", spec.engine.dtype),
        ("max-model-length", spec.engine.max_model_length),
        ("max-concurrent-sequences", spec.engine.max_concurrent_sequences),
        *_limits(spec.limits),
        ("drain-timeout", render(spec.rollout.drain_timeout)),
        *_engine(spec.engine),
        ("trust-remote-code", "true" if spec.model.trust_remote_code else None),
        *(_generation(spec.generation) if spec.generation else ()),
        *(_media(spec.media) if spec.media else ()),
        *(_warmup(spec.warmup) if spec.warmup else ()),
    ]
    return [f"--{flag}={value}" for flag, value in flags if value is not None] + list(spec.engine.args)


def _limits(limits: Limits) -> list[Flag]:
    return [
        ("max-concurrency", limits.max_concurrency),
        ("max-queue", limits.max_queue),
        ("queue-timeout", render(limits.queue_timeout)),
        ("request-timeout", render(limits.request_timeout)),
        ("max-prompt-tokens", limits.max_prompt_tokens),
        ("max-new-tokens", limits.max_new_tokens),
        ("max-choices", limits.max_choices),
        ("max-body-bytes", _bytes(limits.max_body_size)),
    ]


def _engine(engine: Engine) -> list[Flag]:
    return [
        *(("adapter", f"{adapter.name}={local_source(adapter.source)}") for adapter in engine.adapters),
        ("quantization", _unless("none", engine.quantization)),
        ("quantize-above", _bytes(engine.quantize_above)),
        ("kv-cache-tokens", engine.kv_cache_tokens),
        ("prefix-caching", None if engine.prefix_caching else "false"),
        ("speculative-tokens", _unless(0, engine.speculative_tokens)),
        ("max-batch-tokens", engine.max_batch_tokens),
        ("embedding-cache-bytes", _bytes(engine.embedding_cache)),
        ("report-usage", None if engine.report_usage else "false"),
        ("beam-size", engine.beam_size),
        ("vllm-metric-names", "true" if engine.vllm_metric_names else None),
    ]


def _generation(generation: Generation) -> list[Flag]:
    return [
        ("temperature", generation.temperature),
        ("top-p", generation.top_p),
        ("top-k", generation.top_k),
        ("min-p", generation.min_p),
        ("repetition-penalty", generation.repetition_penalty),
        ("default-max-tokens", generation.max_tokens),
        ("generation-config", _unless("auto", generation.config)),
        ("tool-parser", _unless("auto", generation.tool_parser)),
        ("reasoning-parser", _unless("auto", generation.reasoning_parser)),
        *(("chat-template-kwargs", name) for name in generation.chat_template_kwargs),
    ]


def _media(media: Media) -> list[Flag]:
    flags: list[Flag] = []
    if media.fetch:
        flags += [("media-hosts", host) for host in media.fetch.hosts]
        flags.append(("media-timeout", render(media.fetch.timeout)))
    if media.images:
        flags += [
            ("max-media-bytes", _bytes(media.images.max_size)),
            ("max-images", media.images.max_count),
            ("max-image-pixels", media.images.max_pixels),
        ]
    if media.audio:
        flags += [
            ("max-audio-bytes", _bytes(media.audio.max_size)),
            ("max-audio-seconds", _seconds(media.audio.max_length)),
            ("audio-timeout", media.audio.timeout and render(media.audio.timeout)),
        ]
    return flags


def _warmup(warmup: Warmup) -> list[Flag]:
    return [
        *(("warmup", capability.value) for capability in warmup.capabilities),
        *(("warmup-skip", capability.value) for capability in warmup.skip),
        ("warmup-steps", warmup.steps),
        ("warmup-batch", warmup.batch),
        ("warmup-memory", _bytes(warmup.memory)),
    ]


def _unless(default: object, value: object) -> object:
    """Returns a value, or None where it is the runtime's own default: pods of models that do not name it stay as they are."""
    return None if value == default else value


def _bytes(size: str | None) -> int | None:
    return None if size is None else int(quantities.parse(size))


def _seconds(length: timedelta | None) -> int | None:
    return None if length is None else math.ceil(length.total_seconds())
