"""Loading a causal language model from a folder: data type by device, threads by cores, weights laid out for the library's kernels."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from modelyard_runtime.errors import ArgumentsInvalid, UnsupportedModel, WeightsNotFound
from modelyard_runtime.hardware import dtype_for, usable_cores
from modelyard_runtime.model_files import read_object
from modelyard_runtime.models.folder import check_complete, check_folder, named_causes
from modelyard_runtime.models.fusing import fuse
from modelyard_runtime.models.packing import pack, packing
from modelyard_runtime.models.placement import element, is_spread, place
from modelyard_runtime.models.quantising import Quantization, check, loading_config, quantise
from modelyard_runtime.models.sizes import check_sizes

logger = logging.getLogger(__name__)
Progress = Callable[[float], None]
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
TRUST_REMEDY = "if you trust it, set spec.model.trustRemoteCode: true (--trust-remote-code); it may do all that the server may"
#: What Transformers raises over a config that it cannot make sense of; code that comes with the weights may lack an import or a name.
_CODE_ERRORS = (
    *(ValueError, KeyError, OSError, TypeError, StrictDataclassError, ImportError, AttributeError, SyntaxError),
    *(RecursionError, ArithmeticError),
)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in memory with what serves it. ``context_length`` is in tokens; ``chat_template`` is None for a base model."""

    model: Any
    tokenizer: Any
    config: Any
    device: torch.device
    dtype: torch.dtype
    context_length: int
    eos_token_ids: frozenset[int]
    chat_template: str | None

    @classmethod
    def of(cls, model: Any, tokenizer: Any, device: torch.device, dtype: torch.dtype) -> Self:
        """Returns a model with what its files say about it."""
        return cls(
            model=model,
            tokenizer=tokenizer,
            config=model.config,
            device=device,
            dtype=dtype,
            context_length=context_length(model.config),
            eos_token_ids=eos_token_ids(model, tokenizer),
            chat_template=tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else None,
        )

    @property
    def vocabulary_size(self) -> int:
        """Scores per row; may exceed the tokenizer's tokens, which count where the config says nothing."""
        return int(getattr(self.config.get_text_config(), "vocab_size", None) or len(self.tokenizer))


def load_causal_lm(
    folder: Path, *, dtype: str, device: str, progress: Progress, quantization: Quantization = "none", plain: bool = False
) -> LoadedModel:
    """Loads a folder of safetensors as an engine wants it: see `read_causal_lm` and `lay_out`, which raise what this raises."""
    loaded = read_causal_lm(folder, dtype=dtype, device=device, progress=progress, quantization=quantization)
    lay_out(loaded, quantization, plain=plain)
    return loaded


def read_causal_lm(
    folder: Path,
    *,
    dtype: str,
    device: str,
    progress: Progress,
    quantization: Quantization = "none",
    trusted: bool = False,
    rooms: dict[int, int] | None = None,
    kind: Any = None,
) -> LoadedModel:
    """Loads a folder of safetensors, its layers as the library lays them out; ``progress`` gets 0 … 1.

    ``trusted`` lets the folder's own code run. ``kind`` is the library's class that loads it, where that is not the one for decoders.
    ``rooms`` are the bytes that weights may take on each of several GPUs, by their numbers, for
    a model that the first does not hold. Raises WeightsNotFound, UnsupportedModel, OutOfMemory, and ArgumentsInvalid for a device,
    dtype or quantization that is not there.
    """
    check_folder(folder)
    target = _device(device, quantization)
    chosen = choose_dtype(dtype, target)
    disable_progress_bar()
    progress(0.0)
    config = _config(folder, trusted=trusted)
    tokenizer = _tokenizer(folder, trusted=trusted)
    progress(0.1)
    kind = kind or _class_for(config)
    with named_causes(folder, target, kind):
        check_sizes(folder, config, None if trusted else partial(kind.from_config, config))
        places = _places(config, chosen, quantization, rooms or {}, trusted=trusted)
    model = _weights(folder, config, chosen, target, quantization, trusted=trusted, places=places, kind=kind)
    progress(1.0)
    kind = str(chosen).removeprefix("torch.") if quantization == "none" else quantization
    logger.info("loaded %s in %s on %s", type(model).__name__, kind, f"{len(set(places.values()))} devices" if places else target)
    return LoadedModel.of(model, tokenizer, model.get_input_embeddings().weight.device if places else target, chosen)


def lay_out(loaded: LoadedModel, quantization: Quantization, *, plain: bool = False) -> None:
    """Lays a model's weights out for the batching engine, or, ``plain``, for `model.generate`, once.

    Fused layers keep no cache, and packed weights serve nothing but products: neither is for code that we do not know. Layers on several
    devices are left as they are, for accelerate to hand on what they compute.
    """
    if not plain and not is_spread(loaded.model):
        fuse(loaded.model)
    if quantization in {"int8", "int4"} and loaded.device.type == "cpu":
        quantise(loaded.model, quantization)
    if not plain and (kind := packing(loaded.dtype, loaded.device)):
        pack(loaded.model, kind)


def _device(name: str, quantization: Quantization) -> torch.device:
    """Returns the device by name, which must be able to hold such weights; of the processor all cores that are there for us compute."""
    device = choose_device(name)
    check(quantization, device)
    if device.type == "cpu":
        torch.set_num_threads(usable_cores())
    return device


def choose_device(device: str) -> torch.device:
    """Returns the device by name; ``auto`` takes a GPU where there is one. Raises ArgumentsInvalid."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chosen = torch.device(device)
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ArgumentsInvalid(f"--device={device}: there is no CUDA device", "use --device=cpu, or a node with a GPU")
    return chosen


def choose_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """Returns the data type by name; ``auto`` takes what the device computes well. Raises ArgumentsInvalid."""
    chosen = dtype_for(dtype, device.type)
    if chosen not in _DTYPES:
        raise ArgumentsInvalid(f"--dtype={dtype} is none of auto, {', '.join(_DTYPES)}")
    return _DTYPES[chosen]


def context_length(config: Any) -> int:
    """Returns the longest context that a model was made for, in tokens."""
    text = config.get_text_config()
    for name in ("max_position_embeddings", "n_positions", "seq_length", "max_seq_len"):
        value = getattr(text, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return 2048


def eos_token_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Returns every token that ends an answer, by the generation config, the config and the tokenizer."""
    sources = (getattr(model, "generation_config", None), model.config.get_text_config(), tokenizer)
    named = (getattr(source, "eos_token_id", None) for source in sources)
    ids: set[int] = set()
    for value in named:
        ids.update(value if isinstance(value, list | tuple) else [] if value is None else [value])
    return frozenset(ids)


def _config(folder: Path, *, trusted: bool) -> Any:
    if not trusted:
        _check_code(folder)
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=trusted)
    except _CODE_ERRORS as error:
        raise UnsupportedModel(f"config.json of {folder.name} is not one that Transformers knows: {error}") from error


def _check_code(folder: Path) -> None:
    """Raises UnsupportedModel when only code in the folder knows the architecture."""
    config = read_object(folder / "config.json")
    if config.get("auto_map") and config.get("model_type") not in CONFIG_MAPPING:
        raise UnsupportedModel(
            f"{folder.name} (model_type {config.get('model_type', 'missing')}) runs only by Python code that comes with the weights",
            TRUST_REMEDY,
        )


def _tokenizer(folder: Path, *, trusted: bool) -> Any:
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=trusted)
    except (ValueError, KeyError, OSError, TypeError, RecursionError) as error:
        raise WeightsNotFound(f"the tokenizer of {folder.name} cannot be read: {error}", "put tokenizer.json beside config.json") from error


def _places(config: Any, dtype: torch.dtype, quantization: Quantization, rooms: dict[int, int], *, trusted: bool) -> dict[str, int]:
    """Returns the GPU of each part of a model where one does not hold it, else nothing. Images are read by one device."""
    if len(rooms) < 2 or sees_images(config):
        return {}
    with torch.device("meta"):
        empty = _class_for(config).from_config(config, dtype=dtype, trust_remote_code=trusted)
    placed = place(empty, rooms, element(config, dtype, quantization))
    return placed if len(set(placed.values())) > 1 else {}


def _weights(
    folder: Path,
    config: Any,
    dtype: torch.dtype,
    device: torch.device,
    quantization: Quantization,
    *,
    trusted: bool,
    places: dict[str, int],
    kind: Any,
) -> Any:
    if quantization != "none" and getattr(config, "quantization_config", None) is not None:
        raise ArgumentsInvalid(f"--quantization={quantization}: the weights of {folder.name} are quantised already", "leave it out")
    extra = loading_config(quantization, device, dtype)
    where: dict[str, Any] = {**places} if places else {"": device}
    with named_causes(folder, device, kind):
        model, report = kind.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=trusted,
            use_safetensors=True,
            attn_implementation="eager",
            output_loading_info=True,
            **({"quantization_config": extra} if extra else {}),
            **({"device_map": where} if extra or places else {}),
        )
        model = model.eval().requires_grad_(False)
        if extra is None and not places:
            model = model.to(device)
        if device.type == "cpu" and getattr(config, "quantization_config", None) is not None:
            _widen(model, dtype)
    check_complete(folder, report["missing_keys"])
    return model


def _widen(model: Any, dtype: torch.dtype) -> None:
    """Gives all weights the dtype asked for: those stored in fp8 come out in bfloat16 on a processor."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def _class_for(config: Any) -> Any:
    """Returns the class of a plain decoder, or of one with a tower for images."""
    return AutoModelForImageTextToText if sees_images(config) else AutoModelForCausalLM


def sees_images(config: Any) -> bool:
    """Whether a model has a tower for images beside its decoder."""
    return getattr(config, "vision_config", None) is not None and type(config) in AutoModelForImageTextToText._model_mapping
