"""Converting a GGUF file, once, to a folder in the Hugging Face layout.

Reading GGUF through Transformers takes most of a minute of processor time at each start; the converted folder loads in a second. Weights
are stored in float16: GGUF's block scales are float16 themselves, so that it keeps what the quantisation kept (a relative error of 2^-11
against one of about 2^-4), at half of float32's size on disk and in memory while converting. A file that float16 cannot hold is stored in
float32.
"""

import hashlib
import io
import json
import os
import shutil
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
import transformers
from filelock import FileLock
from gguf import GGUFReader
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from modelyard_runtime.errors import DownloadFailed, OutOfMemory, UnsupportedModel, WeightsNotFound
from modelyard_runtime.hardware import available_memory, is_out_of_memory, return_freed

Progress = Callable[[float], None]

#: Present in a folder that was converted whole; says from what.
MARKER = "modelyard-conversion.json"
_FORMAT = 1
_MAGIC = b"GGUF"


def convert(gguf_file: Path, target: Path, progress: Progress) -> None:
    """Writes safetensors, config, tokenizer, chat template and generation config to ``target``, all at once or not at all.

    Does nothing when ``target`` holds the conversion of this very file. Processes that convert to the same target wait for the first.
    ``progress`` gets 0 … 1. Raises WeightsNotFound (no GGUF file), UnsupportedModel (an architecture that Transformers cannot read),
    OutOfMemory, and DownloadFailed when the disk refuses.
    """
    checksum = _checksum(gguf_file)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(target.name + ".lock")):
            if not is_converted(target, checksum):
                _convert_into(gguf_file, target, checksum, progress)
    except OSError as error:
        needed = gguf_file.stat().st_size * 4 / 2**30
        raise DownloadFailed(
            f"cannot write the converted weights to {target}: {error.strerror or error}",
            f"give the model cache {needed:.1f} GiB of free space",
        ) from error
    progress(1.0)


def is_converted(target: Path, checksum: str) -> bool:
    """Whether ``target`` holds the whole conversion of the file with this SHA-256."""
    try:
        marker = json.loads((target / MARKER).read_text())
    except (OSError, ValueError):
        return False
    return isinstance(marker, dict) and (marker.get("sha256"), marker.get("format")) == (checksum, _FORMAT)


def _convert_into(gguf_file: Path, target: Path, checksum: str, progress: Progress) -> None:
    if available_memory() < gguf_file.stat().st_size:  # what comes out is larger still; the kernel would end the process without a word
        raise _too_small(gguf_file)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        progress(0.05)
        model = _read_model(gguf_file)
        progress(0.6)
        model.save_pretrained(scratch)
        model = None
        return_freed()  # the same process is about to load what was converted
        progress(0.8)
        _read_tokenizer(gguf_file).save_pretrained(scratch)
        marker = {"format": _FORMAT, "sha256": checksum, "source": gguf_file.name, "transformers": transformers.__version__}
        (scratch / MARKER).write_text(json.dumps(marker))
        _publish(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _publish(scratch: Path, target: Path) -> None:
    """Moves the finished folder into place, readable by other users: an image may serve it as another one than it was built by."""
    for file in scratch.iterdir():
        file.chmod(0o644)
    scratch.chmod(0o755)
    if target.exists():
        shutil.rmtree(target)
    os.replace(scratch, target)


def _read_model(gguf_file: Path) -> Any:
    with _explained(gguf_file):
        model = _dequantised(gguf_file, torch.float16)
        if any(not bool(parameter.isfinite().all()) for parameter in model.parameters()):
            model = None
            model = _dequantised(gguf_file, torch.float32)
        return model


def _dequantised(gguf_file: Path, dtype: torch.dtype) -> Any:
    model = AutoModelForCausalLM.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name, dtype=dtype, local_files_only=True)
    # The weights are plain tensors by now, and saving refuses a model that says otherwise.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return model


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
    except MemoryError as error:
        raise _too_small(gguf_file) from error
    except (struct.error, IndexError) as error:
        raise _cut_short(gguf_file) from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise WeightsNotFound(f"{gguf_file} is no whole GGUF file: {error}", "check that it was downloaded whole") from error
    except (ValueError, KeyError, RuntimeError, NotImplementedError, AttributeError, TypeError) as error:
        if is_out_of_memory(error):
            raise _too_small(gguf_file) from error
        if _is_cut_short(gguf_file):
            raise _cut_short(gguf_file) from error
        raise UnsupportedModel(f"{gguf_file.name} cannot be converted: {type(error).__name__}: {error}") from error
    finally:
        transformers_logging.set_verbosity(verbosity)


def _too_small(gguf_file: Path) -> OutOfMemory:
    return OutOfMemory(
        f"converting {gguf_file.name} needs more memory than there is", "give it more memory (in a manifest spec.resources.memory)"
    )


def _cut_short(gguf_file: Path) -> WeightsNotFound:
    size = gguf_file.stat().st_size
    return WeightsNotFound(f"{gguf_file} ends too early, after {size} bytes", "check that it was downloaded whole")


class _EndsEarly(Exception):
    """A reader was to read past a file's end."""


class _Reader(GGUFReader):  # type: ignore[misc]
    """Reads heads, and sees where weights end; the library's own takes what there is of them, and fails to give it a shape."""

    def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> Any:
        if offset + np.dtype(dtype).itemsize * int(count) > len(self.data):
            raise _EndsEarly
        return super()._get(offset, dtype, count, override_order)


def _is_cut_short(gguf_file: Path) -> bool:
    """Whether a file that could not be read names weights behind its end."""
    try:
        _Reader(gguf_file)
    except _EndsEarly:
        return True
    except (ValueError, KeyError, OSError):
        return False
    return False


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


def _checksum(gguf_file: Path) -> str:
    try:
        with gguf_file.open("rb") as file:
            if file.read(4) != _MAGIC:
                raise WeightsNotFound(f"{gguf_file} is not a GGUF file", "check that it was downloaded whole")
            file.seek(0)
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsNotFound(f"{gguf_file} cannot be read: {error.strerror or error}") from error
