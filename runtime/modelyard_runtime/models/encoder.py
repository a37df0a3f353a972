"""An encoder, or a decoder that embeds, over batches of texts in token ids.

A model whose attention goes through Transformers' interface reads texts packed (see `packed`). Whether it does, and how it counts
positions, is not believed but tried: its states of a few texts are compared with those that it gives for each text alone. Any other model
gets its texts padded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoConfig
from transformers.utils.logging import disable_progress_bar

from modelyard_runtime.hardware import usable_cores
from modelyard_runtime.models.folder import check_complete, check_folder, named_causes
from modelyard_runtime.models.kernels import computed
from modelyard_runtime.models.packed import NAME, Packing, packed
from modelyard_runtime.models.pooling import Hidden
from modelyard_runtime.models.sizes import check_sizes
from modelyard_runtime.models.tokenizing import Encoded

logger = logging.getLogger(__name__)
Batch = Sequence[Encoded]
#: Lengths of the texts that packing is tried on.
_TRIED = (3, 7, 7, 5)
#: Packs are made up to multiples of so many tokens. Were each of a size of its own, the allocator would find no room of the right size
#: and take more and more: measured with MiniLM, 58 MB between the 50th and the 250th batch, and 5 MB like this.
_GRAIN = 64
#: Below so many tokens the multiples are finer: they would cost a short text dearly.
_SMALL, _SMALL_GRAIN = 256, 16
_TRIAL_ERRORS = (TypeError, ValueError, KeyError, AttributeError, IndexError, RuntimeError, NotImplementedError)


def load_model(loader: Any, folder: Path, *, dtype: torch.dtype, device: torch.device, may_lack: tuple[str, ...] = ()) -> Any:
    """Loads a model's weights by one of Transformers' Auto classes; those whose names begin as in ``may_lack`` may be missing.

    Raises WeightsNotFound, UnsupportedModel or OutOfMemory.
    """
    if device.type == "cpu":
        torch.set_num_threads(usable_cores())
    disable_progress_bar()
    check_folder(folder)
    with named_causes(folder, device, loader):
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        check_sizes(folder, config, lambda: loader.from_config(config))
        model, report = _from_folder(loader, folder, dtype)
        model = model.eval().requires_grad_(False).to(device)
    check_complete(folder, (name for name in report["missing_keys"] if not name.startswith(may_lack)))
    return model


def _from_folder(loader: Any, folder: Path, dtype: torch.dtype) -> tuple[Any, dict[str, Any]]:
    options = {"dtype": dtype, "use_safetensors": True, "local_files_only": True, "trust_remote_code": False, "output_loading_info": True}
    try:
        return loader.from_pretrained(folder, attn_implementation="sdpa", **options)  # type: ignore[no-any-return]
    except ValueError as error:
        if "scaled_dot_product_attention" not in str(error):
            raise
        return loader.from_pretrained(folder, attn_implementation="eager", **options)  # type: ignore[no-any-return]


class Encoder:
    """Hidden states of batches. Belongs on one thread at a time."""

    def __init__(self, model: Any, *, pad: int, device: torch.device, max_length: int):
        """Wraps a model that was loaded; tries whether it can read texts packed. Raises UnsupportedModel when it can be run in no way."""
        self.model = model
        self.device = device
        self.pad = pad
        self.base = model.base_model
        self.config = self.base.config.get_text_config()
        self.config.use_cache = False
        self._typed = int(getattr(self.config, "type_vocab_size", 0) or 0) > 1
        self._plain = str(self.config._attn_implementation)
        self._offset = self._try_packing(min(max_length, _longest(self.config)))

    @property
    def packs(self) -> bool:
        """Whether texts are packed."""
        return self._offset is not None

    def shown(self) -> dict[str, Any]:
        """Returns what the model's status says of how it is computed."""
        return {"name": "encoder", **computed(self.model, self.model.dtype, self.device), "packed": self.packs}

    def unpack(self) -> None:
        """Goes back to padding, and to the model's own attention."""
        self._offset = None
        self.model.set_attn_implementation(self._plain)

    @property
    def longest(self) -> int | None:
        """The tokens that positions are learned for, None where they are not counted."""
        positions = getattr(self.config, "max_position_embeddings", None)
        return positions - (self._offset or 0) if isinstance(positions, int) and positions > 0 else None

    def hidden(self, batch: Batch) -> Hidden:
        """Returns the last layer's states of a batch's tokens."""
        lengths = torch.tensor([len(text) for text in batch], device=self.device)
        if self._offset is not None:
            return Hidden(self._packed(batch, self._offset, Packing.of([len(text) for text in batch])), lengths)
        inputs = self.padded(batch)
        states = self.base(**inputs).last_hidden_state
        return Hidden(states[inputs["attention_mask"].bool()].float(), lengths)

    def padded(self, batch: Batch) -> dict[str, Tensor]:
        """Returns a batch as Transformers takes it, padded on the right."""
        shape = (len(batch), max(map(len, batch)))
        ids = torch.full(shape, self.pad, dtype=torch.long)
        mask, types = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
        for row, text in enumerate(batch):
            ids[row, : len(text)] = torch.tensor(text.ids)
            mask[row, : len(text)] = 1
            if text.types:
                types[row, : len(text)] = torch.tensor(text.types)
        inputs = {"input_ids": ids, "attention_mask": mask} | ({"token_type_ids": types} if self._typed else {})
        return {name: tensor.to(self.device) for name, tensor in inputs.items()}

    def _packed(self, batch: Batch, offset: int, packing: Packing) -> Tensor:
        tokens = [token for text in batch for token in text.ids]
        filler = -len(tokens) % (_GRAIN if len(tokens) > _SMALL else _SMALL_GRAIN)
        if filler:
            packing.groups.append((1, filler))
        places = [torch.arange(offset, offset + len(text)) for text in batch] + [torch.full((filler,), offset)]
        inputs = {"input_ids": torch.tensor(tokens + [self.pad] * filler)[None], "position_ids": torch.cat(places)[None]}
        if self._typed:
            types = [kind for text in batch for kind in (text.types or [0] * len(text))]
            inputs["token_type_ids"] = torch.tensor(types + [0] * filler)[None]
        with packed(packing):
            states: Tensor = self.base(**{name: tensor.to(self.device) for name, tensor in inputs.items()}).last_hidden_state
        return states[0, : len(tokens)].float()

    def _try_packing(self, longest: int) -> int | None:
        """Returns where the model's positions begin when it reads texts packed; None when it does not read them so."""
        texts = trial(self.config.vocab_size, (*_TRIED, longest))
        with torch.inference_mode():
            alone = torch.cat([self.base(**self.padded([text])).last_hidden_state[0].float() for text in texts])
            for offset in (0, self.pad + 1):  # RoBERTa's family counts from there
                if self._agrees(texts, offset, alone):
                    return offset
        self.model.set_attn_implementation(self._plain)
        logger.info("%s reads its texts padded", type(self.base).__name__)
        return None

    def _agrees(self, texts: Batch, offset: int, alone: Tensor) -> bool:
        packing = Packing.of([len(text) for text in texts])
        try:
            self.model.set_attn_implementation(NAME)
            states = self._packed(texts, offset, packing)
        except _TRIAL_ERRORS as error:
            logger.debug("%s cannot be packed: %s", type(self.base).__name__, error)
            return False
        return packing.layers > 0 and close(states, alone, self.model.dtype)


def trial(vocabulary: int, lengths: Sequence[int]) -> list[Encoded]:
    """Returns texts to try a model with: ids from the vocabulary's middle, where no special tokens are."""
    low, high = vocabulary // 4, max(vocabulary // 2, vocabulary // 4 + 1)
    return [Encoded([low + (31 * place + 7 * row) % (high - low) for place in range(length)]) for row, length in enumerate(lengths)]


def close(got: Tensor, wanted: Tensor, dtype: torch.dtype) -> bool:
    """Whether values agree as far as the data type goes."""
    tolerance = (1e-3 if dtype == torch.float32 else 5e-2) * float(wanted.abs().max().clamp(min=1))
    return got.shape == wanted.shape and bool(((got - wanted).abs() <= tolerance).all())


def by_length(batch: Batch, compute: Callable[[Batch], Tensor]) -> NDArray[Any]:
    """Computes a batch sorted by length, and returns the rows in the batch's own order."""
    order = sorted(range(len(batch)), key=lambda index: len(batch[index]))
    rows = compute([batch[index] for index in order])
    back = torch.empty(len(order), dtype=torch.long)
    back[order] = torch.arange(len(order))
    result: NDArray[Any] = rows.float().cpu()[back].numpy()
    return result


def _longest(config: Any) -> int:
    """Returns the length of the longest text to try: one that reaches beyond a sliding window, where there is one."""
    window = getattr(config, "sliding_window", None)
    return 2 * window + 3 if isinstance(window, int) and window > 0 else 9
