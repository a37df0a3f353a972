"""The image side of a vision-language model: pictures in, what the decoder takes in their place out.

Served are the decoders whose images are plain causal tokens with rotary positions in three dimensions: Qwen2-VL, Qwen2.5-VL and
Qwen3-VL (https://arxiv.org/abs/2409.12191, https://arxiv.org/abs/2511.21631). Each image is one placeholder token in the prompt, which is
repeated for each of its merged patches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from modelyard.api.errors import InvalidRequest
from PIL.Image import Image
from transformers import AutoImageProcessor

from modelyard_runtime.engine.media import Media
from modelyard_runtime.errors import UnsupportedModel
from modelyard_runtime.room import Share

#: Share of a picture's sides beyond which processors refuse it.
_LONGEST_RATIO = 200


@dataclass(frozen=True, slots=True)
class Pixels:
    """Images cut into patches: ``values`` [patches, patch size] of all of them, and ``grids`` [images, 3] (time, height, width).

    ``share`` is what they take of the room for images.
    """

    values: torch.Tensor
    grids: torch.Tensor
    share: Share | None = None

    @classmethod
    def joined(cls, parts: Sequence[Pixels], share: Share | None = None) -> Pixels:
        """Returns the images of several as one."""
        return cls(torch.cat([part.values for part in parts]), torch.cat([part.grids for part in parts]), share)

    @property
    def size(self) -> int:
        """Bytes that they take."""
        return self.values.nbytes

    def tokens(self, merge: int) -> list[int]:
        """Returns how many tokens each image takes when ``merge`` by ``merge`` patches become one."""
        return [int(grid.prod()) // merge**2 for grid in self.grids]


class Vision:
    """The processor and the tower of a model. `pixels` and `expand` may run on any thread, `media` runs the tower."""

    def __init__(self, model: Any, processor: Any):
        config = model.config
        self.token = int(config.image_token_id)
        self._tower = model.model
        self._processor = processor
        self._merge = int(config.vision_config.spatial_merge_size)
        layers = 1 + len(getattr(config.vision_config, "deepstack_visual_indexes", None) or ())
        self._token_size = layers * int(config.get_text_config().hidden_size * model.dtype.itemsize)

    @classmethod
    def of(cls, folder: Path, model: Any) -> Vision:
        """Returns the image side of a loaded model. Raises UnsupportedModel."""
        text = model.config.get_text_config()
        rope = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
        if "mrope_section" not in rope or not hasattr(model.model, "get_rope_index"):
            raise UnsupportedModel(
                f"{type(model).__name__} places its images in a way that this engine does not know", "choose a model of Qwen's VL families"
            )
        try:
            processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True, backend="pil")
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise UnsupportedModel(
                f"the image processor of {folder.name} cannot be read: {error}", "put preprocessor_config.json beside config.json"
            ) from error
        return cls(model, processor)

    def pixels(self, image: Image, param: str) -> Pixels:
        """Cuts an image into patches, resized to the model's bounds. Raises InvalidRequest, naming ``param``, when it is too thin."""
        if max(image.size) > _LONGEST_RATIO * min(image.size):
            raise InvalidRequest(
                f"The image of '{param}' is {image.width} by {image.height} pixels. Send one whose sides differ by less than "
                f"{_LONGEST_RATIO} times.",
                param=param,
                code="invalid_image",
            )
        made = self._processor(images=[image], return_tensors="pt")
        return Pixels(made["pixel_values"], made["image_grid_thw"])

    def tokens(self, pixels: Pixels) -> int:
        """Returns how many tokens images take in a prompt."""
        return sum(pixels.tokens(self._merge))

    def size(self, pixels: Pixels) -> int:
        """Returns how many bytes the features of images take."""
        return self.tokens(pixels) * self._token_size

    def expand(self, ids: Sequence[int], pixels: Pixels) -> list[int]:
        """Returns the prompt with each image's placeholder repeated for its patches. Raises InvalidRequest when they do not match."""
        counts = iter(pixels.tokens(self._merge))
        if ids.count(self.token) != len(pixels.grids):
            raise InvalidRequest(
                f"The prompt has {ids.count(self.token)} image placeholders for {len(pixels.grids)} images. "
                "Leave placeholders to the model's template: send images as image_url parts.",
                param="messages",
            )
        return [token for each in ids for token in ([each] * next(counts) if each == self.token else [each])]

    @torch.inference_mode()
    def media(self, ids: Sequence[int], pixels: Pixels) -> Media:
        """Runs the tower for an expanded prompt."""
        prompt = torch.tensor([list(ids)])
        kinds = (prompt == self.token).int()
        positions, _ = self._tower.get_rope_index(prompt, kinds, image_grid_thw=pixels.grids)
        device = next(self._tower.visual.parameters()).device
        seen = self._tower.get_image_features(pixels.values.to(device), pixels.grids.to(device), return_dict=True)
        return Media(
            positions=positions[:, 0].cpu(),
            rows=kinds[0].nonzero()[:, 0],
            features=torch.cat(tuple(seen.pooler_output)),
            deepstack=tuple(_joined(layer) for layer in getattr(seen, "deepstack_features", None) or ()),
            digest=hashlib.sha256(pixels.values.numpy().tobytes() + pixels.grids.numpy().tobytes()).digest(),
        )


def _joined(layer: Any) -> torch.Tensor:
    return layer if isinstance(layer, torch.Tensor) else torch.cat(tuple(layer))
