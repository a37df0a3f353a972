"""The heads of safetensors files (https://github.com/huggingface/safetensors#format): what tensors there are. Their data is not read."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

from safetensors import safe_open


class Stored(NamedTuple):
    """A tensor of a file: its data type as the format spells it, and how many numbers it has."""

    dtype: str
    numbers: int


def stored(folder: Path) -> list[Stored]:
    """Returns the tensors of a folder's weights; none of them is larger than its file.

    Raises OSError or SafetensorError where a file cannot be read.
    """
    found = []
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "numpy") as weights:  # of which nothing is asked but shapes: numpy knows too few types for more
            parts = map(weights.get_slice, weights.keys())
            found += [Stored(str(part.get_dtype()), math.prod(part.get_shape())) for part in parts]
    return found
