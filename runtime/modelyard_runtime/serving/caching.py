"""Vectors of texts that were embedded before."""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from modelyard_runtime.models.tokenizing import Encoded

Vector = NDArray[np.float32]
#: What an entry takes besides its numbers: the key, the array's head and the place in the table, in bytes.
_OVERHEAD = 300


class VectorCache:
    """Keeps the vectors used last, ``size`` bytes of them at most; 0 keeps none. Used from one thread.

    The key is what the model reads: the token ids, a prompt's included, and how many of them are not pooled.
    """

    def __init__(self, size: int):
        self._size = size
        self._vectors: OrderedDict[bytes, Vector] = OrderedDict()
        self.held = 0

    def __len__(self) -> int:
        return len(self._vectors)

    @property
    def enabled(self) -> bool:
        """Whether anything is kept."""
        return self._size > 0

    def get(self, key: bytes) -> Vector | None:
        """Returns a vector, which then is the one used last, or None."""
        vector = self._vectors.get(key)
        if vector is not None:
            self._vectors.move_to_end(key)
        return vector

    def put(self, key: bytes, vector: Vector) -> None:
        """Keeps a vector, and lets those go that were not used for longest."""
        if key in self._vectors:
            return
        own = np.array(vector)  # a row of a batch would keep the whole batch in memory
        own.setflags(write=False)
        self._vectors[key] = own
        self.held += own.nbytes + _OVERHEAD
        while self.held > self._size:
            _, gone = self._vectors.popitem(last=False)
            self.held -= gone.nbytes + _OVERHEAD


def key_of(text: Encoded) -> bytes:
    """Returns a text's key: a hash of 128 bits, of which no two were ever seen to be equal by chance."""
    return blake2b(np.array([text.skip, *text.ids], dtype=np.int64).tobytes(), digest_size=16).digest()
