"""Square crops of several sizes, each classified by CLIP's class token, laid out as maps and averaged (CLIP-DIY).

Source: Wysoczańska et al., "CLIP-DIY: CLIP Dense Inference Yields Open-Vocabulary Semantic Segmentation For-Free", WACV
2024, and its released code. CLIP stays untouched.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ovsslib.clip.backbone import Backbone
from ovsslib.errors import ImageError, RecipeError
from ovsslib.images.pictures import denormalise
from ovsslib.images.preprocessing import bicubic, clip_pixels
from ovsslib.recipe import stage
from ovsslib.stages.contexts import WholePictureContext
from ovsslib.stages.whole_picture import refuse_early_stages

if TYPE_CHECKING:
    from ovsslib.recipe import Recipe

_BATCH = 8  # crops in one pass through the tower


def crop_starts(side: int, crop: int, step: int) -> range:
    """First pixels of crops along a side: 0, step, 2 step, ... while they fit; pixels left over are not covered."""
    return range(0, side - crop + 1, step)


def crops_of(image: np.ndarray, crop: int, steps: int) -> tuple[list[np.ndarray], tuple[int, int]]:
    """Square crops of a picture (H, W, 3), row by row, `steps` of them along their own side; and (rows, columns).

    Raises ImageError for a crop that is larger than the picture.
    """
    height, width = image.shape[:2]
    if crop > min(height, width):
        raise ImageError(
            f"crops of {crop} pixels do not fit into a picture of {height}x{width}; use smaller crop_pyramid.sizes or a "
            "larger crop_pyramid.side"
        )
    step = max(1, crop // steps)
    tops, lefts = crop_starts(height, crop, step), crop_starts(width, crop, step)
    crops = [image[top : top + crop, left : left + crop] for top in tops for left in lefts]
    return crops, (len(tops), len(lefts))


@torch.no_grad()
def crop_cosines(backbone: Backbone, crops: Sequence[np.ndarray], rows: Tensor) -> Tensor:
    """Cosines (N, Q) of the class tokens of crops (p, p, 3) uint8 with unit text rows (Q, D)."""
    cosines = []
    for start in range(0, len(crops), _BATCH):
        part = [
            clip_pixels(bicubic(c, backbone.image_size), backbone.pixel_mean, backbone.pixel_std)
            for c in crops[start : start + _BATCH]
        ]
        tokens = F.normalize(backbone.encode_image(torch.stack(part)), dim=-1)
        cosines.append(tokens @ rows.to(tokens).T)
    return torch.cat(cosines)


def averaged_maps(
    cosines: Sequence[Tensor],
    grids: Sequence[tuple[int, int]],
    weights: Sequence[float],
    size: tuple[int, int],
    mode: str = "bilinear",
) -> Tensor:
    """Cosines per size of crops, (N, Q) each on its grid (rows, columns) -> their mean map (Q, H, W).

    M = 1/S sum_s weight_s M_s: the mean over S sizes of weighted maps, not divided by the weights' sum. A map of n x n
    cells is enlarged as if its cells had their centres at (i + 0.5) H / n, which the crops have not: as released.
    """
    total = torch.zeros(())
    for values, grid, weight in zip(cosines, grids, weights, strict=True):
        cells = values.T.unflatten(1, grid)[None]
        total = total.to(cells) + weight * F.interpolate(cells, size=size, mode=mode)[0]
    return total / len(cosines)


@stage(
    "crop_pyramid",
    point="picture",
    summary="crops of several sizes by their class tokens (CLIP-DIY)",
)
@dataclass(frozen=True)
class CropPyramid:
    """Settings of CLIP-DIY's crops.

    Attributes:
        side: the photograph is resized to a square of so many pixels, whatever its shape (released). 0: the network
            picture as `windows.short_side` makes it, with crops in rows and columns (this project's extension).
        sizes: sides of the crops in pixels.
        steps: crops begin every size / steps pixels.
        weights: of the sizes.
        interpolation: how the map of each size is enlarged.
    """

    version: ClassVar[int] = 1

    side: int = 256
    sizes: tuple[int, ...] = (256, 128, 64)
    steps: int = 2
    weights: tuple[float, ...] = (1.0, 1.0, 1.0)
    interpolation: Literal["bilinear", "nearest"] = "bilinear"

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes) < 8 or self.steps < 1:
            raise RecipeError(
                f"crop_pyramid.sizes={self.sizes}, steps={self.steps}: give crops of 8 pixels or more, and 1 step or more"
            )
        if len(self.weights) != len(self.sizes):
            raise RecipeError(
                f"crop_pyramid: {len(self.sizes)} sizes and {len(self.weights)} weights; give one weight per size"
            )
        if self.side and not max(self.sizes) <= self.side:
            raise RecipeError(
                f"crop_pyramid.sizes={self.sizes}: a crop is larger than the picture (side={self.side}); enlarge side"
            )

    @property
    def capabilities(self) -> frozenset[str]:
        """With a side of its own, `windows` has no part."""
        capabilities = frozenset({"ignores_attention"})
        return capabilities | {"ignores_windows"} if self.side else capabilities

    def refuse(self, recipe: "Recipe") -> str | None:
        """Stages of the windows' flow would never run."""
        return refuse_early_stages(recipe)

    def picture_logits(self, context: WholePictureContext) -> Tensor:
        """(Q, H, W) mean cosines of the crops that cover a pixel, one map for each size of crops."""
        image = context.image
        if image is None or not self.side:
            image = denormalise(context.pixels, *context.backbone.normalisation)
        if self.side and image.shape[:2] != (self.side, self.side):
            image = cv2.resize(image, (self.side, self.side), interpolation=cv2.INTER_LINEAR)
        cosines, grids = [], []
        for size in self.sizes:
            crops, grid = crops_of(image, size, self.steps)
            cosines.append(crop_cosines(context.backbone, crops, context.text))
            grids.append(grid)
        return averaged_maps(cosines, grids, self.weights, image.shape[:2], self.interpolation)
