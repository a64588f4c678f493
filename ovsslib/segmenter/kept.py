"""What goes into the windows of a picture, and what is kept of them before the words."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from ovsslib.clip.backbone import Tap, TrunkOutput
from ovsslib.stages.contexts import WindowContext


@dataclass
class PictureInput:
    """One picture on its way through the windows.

    Attributes:
        pixels: (3, h, w) CLIP-normalised network picture, on the device.
        image: (H, W, 3) uint8 photograph, or None.
        regions: (H, W) int64 region map of the photograph, by proposer; filled when a recipe asks.
        kept: what guides gave, shared by all recipes.
    """

    pixels: Tensor
    image: np.ndarray | None = None
    regions: dict[str, Tensor] = field(default_factory=dict)
    kept: dict[Any, Any] = field(default_factory=dict)


@dataclass
class WindowFeatures:
    """A batch of windows before the words: one map (B, D, h, w) per view, and what stages may look at."""

    maps: list[Tensor]
    context: WindowContext


def count_bytes(value: Any, sizes: dict[int, int]) -> None:
    """Bytes of the tensors inside lists, mappings and data classes, by the address of their storage."""
    if isinstance(value, Tensor):
        storage = value.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
    elif isinstance(value, (list, tuple)):
        for item in value:
            count_bytes(item, sizes)
    elif isinstance(value, dict):
        count_bytes(list(value.values()), sizes)
    elif isinstance(value, _WITH_TENSORS):
        count_bytes(list(vars(value).values()), sizes)


_WITH_TENSORS = (TrunkOutput, Tap, WindowContext, WindowFeatures, PictureInput)
