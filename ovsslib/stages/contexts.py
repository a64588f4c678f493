"""What the segmenter hands to stages: a window's tensors before the stitching, an image's behind it."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from ovsslib.clip.backbone import Backbone, TrunkOutput
from ovsslib.recipe import Recipe
from ovsslib.text.features import TextFeatures


@dataclass
class AttentionContext:
    """What stages at the point "attention" may look at.

    Attributes:
        backbone: the open CLIP.
        trunk: trunk result with the taps that the stages asked for.
        grid: (h, w) patches.
        base: function of a Tap giving the weights (B, heads, T, T) of the recipe's attention there,
            without the feedback that the last block may receive.
        text: (Q, D) unit text features, or None.
        pixels: (B, 3, H, W) the windows.
        pamr: the refinement function of ovsslib.stages.pamr.
    """

    backbone: Backbone
    trunk: TrunkOutput
    grid: tuple[int, int]
    base: object = None
    text: Tensor | None = None
    pixels: Tensor | None = None
    pamr: object = None


@dataclass
class WindowContext:
    """What stages at "features" and "similarity" may look at; all tensors are of a batch of windows.

    Attributes:
        backbone, trunk: the open CLIP and its trunk result.
        pixels: (B, 3, H, W) CLIP-normalised windows.
        text: (Q, D) unit text features.
        grid, coarse_grid: (h, w) patches of the tower, before any upsampling.
        coarse: (B, D, h, w) patch features before any upsampling.
        class_token: (B, D) class token after the last block's surgery, in the joint space.
        queries: how many of the Q rows are words; texts of groups follow them.
        features: (B, D, h', w') features after the stages at "features".
        coarse_logits_at: function (scale) -> (B, Q, h, w) cosines of a pass over the windows resized by `scale`.
    """

    backbone: Backbone
    trunk: TrunkOutput
    pixels: Tensor
    text: Tensor
    grid: tuple[int, int]
    coarse: Tensor
    class_token: Tensor
    queries: int
    features: Tensor | None = None
    coarse_logits_at: Any = None

    @property
    def coarse_grid(self) -> tuple[int, int]:
        """(h, w) patches of the tower."""
        return self.grid


@dataclass
class ImageContext:
    """What stages behind the stitching may look at.

    Attributes:
        backbone: the open CLIP.
        image: (H, W, 3) uint8 RGB original.
        network_pixels: (1, 3, h, w) resized, CLIP-normalised.
        text: text features with their vocabulary.
        group_logits: (G, H, W) scaled logits of group texts, if a stage asked for them.
        recipe: the recipe that runs.
    """

    backbone: Backbone
    image: np.ndarray
    network_pixels: Tensor
    text: TextFeatures
    recipe: Recipe
    group_logits: Tensor | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def pixels(self) -> Tensor:
        """(1, 3, H, W) network pixels resized bilinearly to the original size."""
        return F.interpolate(self.network_pixels, size=self.image.shape[:2], mode="bilinear")
