"""A pipeline class that comes with the weights: making it, finding out which settings it takes, and asking it for text.

Its model is read as every other one is (safetensors, whole, from the folder alone), by the class that config.json names. What the
pipeline itself does is its own affair, and it may ignore settings. So it is only given, and requests may only ask for, those that it hands
on to one of its parts, and runs with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
from transformers import Pipeline
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from modelyard_runtime.errors import OutOfMemory, UnsupportedModel
from modelyard_runtime.hardware import is_out_of_memory
from modelyard_runtime.models.declared import Declared
from modelyard_runtime.models.loading import LoadedModel

_PROMPT = "Hello"
_ONLY_NEW = "return_full_text"
#: Settings of text generation by the library's names, with values to try; the length first, which shortens what is tried after it.
_TRIED: Mapping[str, Any] = {
    "max_new_tokens": 2,
    _ONLY_NEW: False,
    "do_sample": True,
    "temperature": 0.7,
    "top_p": 0.9,
    "top_k": 5,
    "min_p": 0.05,
    "repetition_penalty": 1.1,
}


@dataclass(frozen=True, slots=True)
class TextPipeline:
    """A pipeline that goes on from a text. ``takes`` are the settings that it honours, by the library's names."""

    pipeline: Any
    takes: frozenset[str]

    def answer(self, prompt: str, wishes: Mapping[str, Any]) -> str:
        """Returns what it says to a prompt, under those of ``wishes`` that it takes. Raises UnsupportedModel, and what its code raises."""
        return _text_of(self.pipeline(prompt, **{name: value for name, value in wishes.items() if name in self.takes}))

    def prove(self) -> None:
        """Asks for a few tokens. Raises UnsupportedModel when no text comes, OutOfMemory when it does not fit."""
        with _anybodys(type(self.pipeline).__name__):
            self.answer(_PROMPT, _TRIED)


def model_class(own: Declared) -> Any:
    """Returns the library's class that loads the model: the first known one that config.json names. Raises UnsupportedModel."""
    found = (getattr(transformers, name, None) for name in own.classes)
    kind = next((one for one in found if hasattr(one, "from_pretrained")), None)
    if kind is None:
        raise UnsupportedModel(f"config.json names no class of the library that loads a model for {own.impl}, which 'pt' there should do")
    return kind


def make_pipeline(folder: Path, own: Declared, loaded: LoadedModel) -> TextPipeline:
    """Returns the folder's pipeline around its model, proved. The folder's code runs. Raises UnsupportedModel or OutOfMemory."""
    if getattr(loaded.tokenizer, "backend_tokenizer", None) is None:
        raise UnsupportedModel("the tokenizer has no tokenizer.json form, which says where in a text its tokens are")
    with _anybodys(own.impl):
        kind = get_class_from_dynamic_module(own.impl, str(folder), local_files_only=True)
        if not issubclass(kind, Pipeline):
            raise UnsupportedModel(f"{own.impl} is no Pipeline of the library's")
        device = None if getattr(loaded.model, "hf_device_map", None) else loaded.device
        pipeline = kind(model=loaded.model, tokenizer=loaded.tokenizer, task=own.task, device=device)
        made = TextPipeline(pipeline, _taken(pipeline))
    made.prove()
    return made


def _taken(pipeline: Any) -> frozenset[str]:
    """Returns the settings that it hands on and runs with: all at once, or else as many as go together."""
    handed = {name: value for name, value in _TRIED.items() if _hands_on(pipeline, name, value)}
    if _runs(pipeline, handed):
        return frozenset(handed)
    kept: dict[str, Any] = {}
    for name, value in handed.items():
        if _runs(pipeline, {**kept, name: value}):
            kept[name] = value
    return frozenset(kept)


def _hands_on(pipeline: Any, name: str, value: object) -> bool:
    """Whether a setting changes what a pipeline gives to its parts (preprocess, _forward, postprocess); others it drops, or refuses.

    What is to come back is for the last part alone: given to the model it would be no setting of a model's.
    """
    try:
        without, given = pipeline._sanitize_parameters(), pipeline._sanitize_parameters(**{name: value})
    except (TypeError, ValueError):
        return False
    return bool(without[2] != given[2] if name == _ONLY_NEW else without != given)


def _runs(pipeline: Any, settings: Mapping[str, Any]) -> bool:
    try:
        pipeline(_PROMPT, **settings)
    except Exception as error:  # its code may be anybody's
        if is_out_of_memory(error):
            raise
        return False
    return True


@contextmanager
def _anybodys(what: str) -> Iterator[None]:
    """Says what failed in code that may be anybody's. Raises UnsupportedModel or OutOfMemory."""
    try:
        yield
    except UnsupportedModel:
        raise
    except Exception as cause:
        if is_out_of_memory(cause):
            raise OutOfMemory(f"{what} does not fit the memory: {cause}") from cause
        raise UnsupportedModel(f"{what} fails: {type(cause).__name__}: {cause}") from cause


def _text_of(output: object) -> str:
    """Returns the text of what a pipeline returned: a text, or an entry such as ``generated_text``, or the first of a list of these."""
    one = output[0] if isinstance(output, list) and output else output
    if isinstance(one, dict):
        one = next((value for name, value in one.items() if str(name).endswith("_text")), one)
    if not isinstance(one, str):
        raise UnsupportedModel(f"it returns no text, but {type(output).__name__}: neither a text nor an entry named generated_text")
    return one
