"""What a model can do, by its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modelyard_runtime.errors import ArgumentsInvalid, UnsupportedModel
from modelyard_runtime.model_files import read_object
from modelyard_runtime.models.declared import declared
from modelyard_runtime.serving.families import FAMILIES, Family, family_of

_MULTIMODAL = "ForConditionalGeneration"
_DECODERS = ("ForCausalLM", "LMHeadModel")
_JUDGES = "ForSequenceClassification"


def capabilities_of(folder: Path, wanted: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the capabilities to serve: those asked for, else those detected. Raises ArgumentsInvalid or UnsupportedModel."""
    if not wanted:
        return detect(folder)
    if family_of(wanted) is None:
        together = "; ".join(", ".join(sorted(family.capabilities)) for family in FAMILIES)
        raise ArgumentsInvalid(
            f"--capability: {' and '.join(wanted)} are not one model's. Together may be: {together}",
            "make several models of the same source",
        )
    return wanted


def family_for(folder: Path, capabilities: tuple[str, ...]) -> Family:
    """Returns the family that serves the folder with these capabilities, which `capabilities_of` returned.

    Encoders of two families can rerank: then the files say which one it is. Raises ArgumentsInvalid where they say that it is none of them.
    """
    fitting = {family.name: family for family in FAMILIES if family.capabilities >= set(capabilities)}
    kinds = _kinds(folder, capabilities)
    possible = [name for name in fitting if name in kinds] if kinds else list(fitting)[:1]
    if not possible or ("vision" in capabilities and "vision" not in detect(folder)):
        raise ArgumentsInvalid(
            f"--capability: this model is made for {' and '.join(detect(folder))}, not for {' and '.join(capabilities)}",
            f"leave --capability out (spec.model.capabilities), or choose a model that is: {_WANTED[next(iter(fitting))]}",
        )
    return fitting[possible[0]]


#: What a model of each family is.
_WANTED = {
    "generation": "a decoder, and for vision one that reads images",
    "embeddings": "an embedding model",
    "ranking": "a cross-encoder or a classifier (…ForSequenceClassification)",
    "transcription": "Whisper",
}


def _kinds(folder: Path, wanted: tuple[str, ...]) -> frozenset[str]:
    """Returns the families that can serve a model by its files; empty where they do not say, and whoever names a capability knows.

    Hidden states of any text model are vectors, for those who ask for embeddings by name.
    """
    try:
        detected = set(detect(folder))
    except UnsupportedModel:
        return frozenset()
    if detected == {"transcription"}:
        return frozenset({"transcription"})
    config = read_object(folder / "config.json")
    names = _architectures(config)
    kinds = {
        "embeddings": "embeddings" in detected or "embeddings" in wanted,
        "generation": any(name.endswith((*_DECODERS, _MULTIMODAL)) for name in names) or declared(config) is not None,
        "ranking": any(name.endswith(_JUDGES) for name in names),
    }
    return frozenset(name for name, is_one in kinds.items() if is_one)


def detect(folder: Path) -> tuple[str, ...]:
    """Returns what a model can do, by its files. Raises UnsupportedModel."""
    config = read_object(folder / "config.json")
    architectures = _architectures(config)
    if config.get("model_type") == "whisper" or ((folder / "model.bin").is_file() and "alignment_heads" in config):
        return ("transcription",)
    if any(name.endswith(_JUDGES) for name in architectures):
        return ("rerank",) if _labels(config) == 1 else ("classify",)
    if (folder / "modules.json").is_file():
        return ("embeddings", "rerank")
    if "vision_config" in config and any(name.endswith(_MULTIMODAL) for name in architectures):
        return ("chat", "completions", "vision")
    own = declared(config)
    if any(name.endswith(_DECODERS) for name in architectures) or (own is not None and own.writes):
        return ("chat", "completions") if has_template(folder) else ("completions",)
    if any(name.endswith(("Model", "ForMaskedLM")) for name in architectures):
        return ("embeddings", "rerank")
    named = ", ".join(architectures) or f"model_type {config.get('model_type', 'missing')}"
    raise UnsupportedModel(
        f"{named} is neither a decoder nor an encoder that this runtime knows",
        "name what it is for with --capability, or choose another model",
    )


def _architectures(config: dict[str, Any]) -> list[str]:
    names = config.get("architectures")
    return [str(name) for name in names] if isinstance(names, list) else []


def has_template(folder: Path) -> bool:
    """Whether the folder has a chat template."""
    if (folder / "chat_template.jinja").is_file() or (folder / "chat_template.json").is_file():
        return True
    return bool(read_object(folder / "tokenizer_config.json").get("chat_template"))


def _labels(config: dict[str, Any]) -> int:
    """Returns how many labels a classifier has; two where its config says nothing, as in Transformers."""
    labels, count = config.get("id2label"), config.get("num_labels")
    return (len(labels) if isinstance(labels, dict) else 0) or (count if isinstance(count, int) else 0) or 2
