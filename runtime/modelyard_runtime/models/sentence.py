"""The files of sentence-transformers: what follows the encoder, how long texts may be, and which prompts the model was trained with.

``modules.json`` lists the steps after the encoder: pooling, dense layers, normalisation. A folder without it gets mean pooling and
normalisation. Layout: https://www.sbert.net/docs/sentence_transformer/usage/custom_models.html
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelyard_runtime.errors import UnsupportedModel
from modelyard_runtime.model_files import inside, read_json, read_object

#: Poolings by the names of newer files, in the order in which several of them are joined.
POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
#: Under which names a prompt for each kind of input is looked for.
_KINDS = {"query": ("query",), "document": ("document", "passage", "corpus")}


@dataclass(frozen=True, slots=True)
class DenseStep:
    """A linear layer with an activation: where its weights are, relative to the model's folder."""

    path: str
    activation: str


@dataclass(frozen=True, slots=True)
class Layout:
    """What follows the encoder, and what comes before a text. ``max_length`` is in tokens, None: the encoder's own."""

    poolings: tuple[str, ...] = ("mean",)
    dense: tuple[DenseStep, ...] = ()
    normalize: bool = True
    max_length: int | None = None
    lower: bool = False
    pools_prompt: bool = True
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt: str = ""

    def prompt_for(self, kind: str) -> str:
        """Returns the prompt for a query or a document; none where the model makes no difference."""
        return next((self.prompts[name] for name in _KINDS[kind] if name in self.prompts), "")


def read_layout(folder: Path) -> Layout:
    """Reads the files. Raises UnsupportedModel on modules, poolings or activations that are not known."""
    modules = read_json(folder / "modules.json", list)
    texts = read_object(folder / "sentence_bert_config.json")
    named = read_object(folder / "config_sentence_transformers.json")
    given = named.get("prompts")
    prompts = {str(name): str(text) for name, text in given.items() if text is not None} if isinstance(given, dict) else {}
    default = named.get("default_prompt_name")
    if default is not None and not (isinstance(default, str) and default in prompts):
        raise UnsupportedModel(f"config_sentence_transformers.json names the prompt {default!r} and has none of that name")
    pooling, dense, normalize = ({}, (), True) if modules is None else _steps(folder, modules)
    return Layout(
        poolings=_poolings(pooling),
        dense=dense,
        normalize=normalize,
        max_length=longest_text(texts),
        lower=bool(texts.get("do_lower_case")),
        pools_prompt=bool(pooling.get("include_prompt", True)),
        prompts=prompts,
        default_prompt=prompts[default] if default is not None else "",
    )


def longest_text(texts: dict[str, Any]) -> int | None:
    """Returns the tokens of the longest text by sentence_bert_config.json, None where it says nothing. Raises UnsupportedModel."""
    length = texts.get("max_seq_length")
    if length is not None and (not isinstance(length, int) or length < 1):
        raise UnsupportedModel(f"sentence_bert_config.json asks for texts of {length!r} tokens")
    return length


def _steps(folder: Path, modules: list[Any]) -> tuple[dict[str, Any], tuple[DenseStep, ...], bool]:
    pooling: dict[str, Any] = {}
    dense: list[DenseStep] = []
    normalize = False
    for module in modules:
        if not isinstance(module, dict):
            raise UnsupportedModel("modules.json lists what is no module")
        kind, path = str(module.get("type")).rsplit(".", 1)[-1], str(module.get("path", ""))
        match kind:
            case "Transformer" | "Dropout":  # dropout does nothing outside of training
                pass
            case "Pooling":
                pooling = read_object(inside(folder, path) / "config.json")
            case "Dense":
                dense.append(_dense(path, read_object(inside(folder, path) / "config.json")))
            case "Normalize":
                normalize = True
            case _:
                raise UnsupportedModel(
                    f"the sentence-transformers module {kind!r} is not supported",
                    "use a model of Transformer, Pooling, Dense and Normalize",
                )
    return pooling, tuple(dense), normalize


def _dense(path: str, config: dict[str, Any]) -> DenseStep:
    activation = str(config.get("activation_function") or "torch.nn.Identity").rsplit(".", 1)[-1]
    if activation not in ACTIVATIONS or config.get("use_residual"):
        raise UnsupportedModel(
            f"the dense layer {path} with {activation}{' and a residual' * bool(config.get('use_residual'))} is not supported",
            f"use a model whose dense layers end in one of: {', '.join(ACTIVATIONS)}",
        )
    return DenseStep(path, activation)


#: Names of `torch.nn` classes that a dense layer may end in.
ACTIVATIONS = ("Identity", "Tanh", "ReLU", "GELU", "SiLU", "Sigmoid")


def _poolings(config: dict[str, Any]) -> tuple[str, ...]:
    """Reads a pooling module's config: the modes' names (newer files) or one flag per mode."""
    modes = config.get("pooling_mode") or []
    names = [str(mode) for mode in ([modes] if isinstance(modes, str) else modes)]
    flags = {_FLAGS.get(key, key) for key, on in config.items() if key.startswith("pooling_mode_") and on}
    names = names or sorted(flags, key=lambda name: POOLINGS.index(name) if name in POOLINGS else -1) or ["mean"]
    if unknown := sorted(set(names) - set(POOLINGS)):
        raise UnsupportedModel(f"the pooling {' + '.join(unknown)} is not supported", f"use a model that pools by {', '.join(POOLINGS)}")
    return tuple(names)
