"""Converting a GGUF file, once, to a folder in the Hugging Face layout.

Reading GGUF through Transformers takes most of a minute of processor time at each start; the converted folder loads in a second. Weights
are stored in float16: GGUF's block scales are float16 themselves, so that it keeps what the quantisation kept (a relative error of 2^-11
against one of about 2^-4), at half of float32's size on disk and in memory while converting. A file that float16 cannot hold is stored in
float32.
"""

import io
import shutil
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any, TextIO

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from modelyard_runtime.errors import OutOfMemory, UnsupportedModel
from modelyard_runtime.hardware import available_memory, is_out_of_memory, return_freed
from modelyard_runtime.models.gguf_head import Tensor, stored
from modelyard_runtime.setting_types import shown

Progress = Callable[[float], None]

#: What Transformers raises when it cannot read a file.
_CAUSES = (MemoryError, OSError, ValueError, LookupError, RuntimeError, AttributeError, TypeError, ArithmeticError, struct.error)
_REMEDY = "give it more memory (in a manifest spec.resources.memory)"


def convert(gguf_file: Path, target: Path, progress: Progress) -> None:
    """Writes safetensors, config, tokenizer, chat template and generation config to a new folder, of which an error leaves nothing.

    ``progress`` gets 0 … 1. Raises WeightsNotFound (no whole GGUF file), UnsupportedModel (one that Transformers cannot read),
    OutOfMemory, and OSError or SafetensorError when the disk refuses.
    """
    tensors = stored(gguf_file)
    target.mkdir()
    try:
        progress(0.05)
        model = _read_model(gguf_file, tensors)
        progress(0.6)
        model.save_pretrained(target)
        model = None
        return_freed()  # the same process is about to load what was converted
        progress(0.8)
        _read_tokenizer(gguf_file).save_pretrained(target)
        for file in target.iterdir():
            file.chmod(0o644)  # an image may serve it as another user than it was built by
    except BaseException:
        shutil.rmtree(target)
        raise
    progress(1.0)


def _read_model(gguf_file: Path, tensors: list[Tensor]) -> Any:
    with _explained(gguf_file):
        model = _dequantised(gguf_file, tensors, torch.float16)
        if any(not bool(parameter.isfinite().all()) for parameter in model.parameters()):
            model = None
            model = _dequantised(gguf_file, tensors, torch.float32)
        return model


def _dequantised(gguf_file: Path, tensors: list[Tensor], dtype: torch.dtype) -> Any:
    _check_free(gguf_file, tensors, dtype.itemsize)
    model = AutoModelForCausalLM.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name, dtype=dtype, local_files_only=True)
    # The weights are plain tensors by now, and saving refuses a model that says otherwise.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return model


def _check_free(gguf_file: Path, tensors: list[Tensor], width: int) -> None:
    """Raises OutOfMemory where weights of so many bytes do not fit; the kernel would end the process without a word.

    The largest tensor is there once more, and in float32, as it is converted.
    """
    sizes = [tensor.numbers for tensor in tensors]
    needed, free = width * sum(sizes) + (width + 4) * max(sizes, default=0), available_memory()
    if needed > free:
        raise OutOfMemory(f"converting {gguf_file.name} needs {shown(needed)} at least, and {shown(free)} are free", _REMEDY)


def _read_tokenizer(gguf_file: Path) -> Any:
    with _explained(gguf_file):
        return AutoTokenizer.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name, local_files_only=True)


@contextmanager
def _explained(gguf_file: Path) -> Iterator[None]:
    """Turns what Transformers raises into root causes, and keeps its progress bars and advice off the terminal."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with redirect_stderr(_WithoutBars(sys.stderr)):
            yield
    except _CAUSES as error:
        if is_out_of_memory(error):
            raise OutOfMemory(f"converting {gguf_file.name} needs more memory than there is", _REMEDY) from error
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise UnsupportedModel(f"{gguf_file.name} cannot be converted: {type(error).__name__}: {error}") from error
    finally:
        transformers_logging.set_verbosity(verbosity)


class _WithoutBars(io.TextIOBase):
    """Passes on all but progress bars: the reader draws one that no setting turns off, and progress has its own way out."""

    def __init__(self, out: TextIO):
        self._out = out

    def write(self, text: str) -> int:
        if not text.startswith("\r"):
            self._out.write(text)
        return len(text)

    def flush(self) -> None:
        self._out.flush()
