"""Regional clues in the thesis's form: each patch hears what its region of the window looks like.

Source: thesis, section 3.3.2 ("CLIP-RC"). The CVPR 2024 method of that name (Zhang, Guo, Wang, Hu:
"Exploring Regional Clues in CLIP for Zero-Shot Semantic Segmentation") is a trained segmentor with
region tokens, an alignment module, and a decoder; it is another thing and is not implemented here.

The thesis concatenates nine descriptors with the global feature, whose dimension then no longer
fits the text's. How regions reach the patches is therefore this project's decision: a weighted sum,
with regions bilinear in between.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ovsslib.errors import RecipeError
from ovsslib.recipe import stage


def bin_edges(length: int, bins: int) -> list[int]:
    """Borders of `bins` parts of `length` patches, by rounding halves up; at most one bin per
    patch.
    """
    bins = min(bins, length)
    return [(2 * index * length + bins) // (2 * bins) for index in range(bins + 1)]


def region_descriptors(
    features: Tensor, rows: list[int], columns: list[int], pool: str = "max"
) -> Tensor:
    """(B, D, h, w) and bin edges -> (B, D, k, l): per channel the maximum or mean of each bin."""
    reduce = (lambda part: part.amax((2, 3))) if pool == "max" else (lambda part: part.mean((2, 3)))
    grid = [
        torch.stack(
            [reduce(features[:, :, top:bottom, left:right]) for left, right in pairwise(columns)],
            -1,
        )
        for top, bottom in pairwise(rows)
    ]
    return torch.stack(grid, -2)


def _between_centres(edges: list[int], like: Tensor) -> Tensor:
    """(length, bins) weights of linear interpolation between the centres of bins, constant outside
    of them.
    """
    centres = [(first + last - 1) / 2 for first, last in pairwise(edges)]
    weights = torch.zeros(edges[-1], len(centres))  # filled where single values are cheap to write
    for position in range(edges[-1]):
        after = sum(centre <= position for centre in centres)
        if after in (0, len(centres)):
            weights[position, min(after, len(centres) - 1)] = 1
        else:
            share = (position - centres[after - 1]) / (centres[after] - centres[after - 1])
            weights[position, after - 1], weights[position, after] = 1 - share, share
    return weights.to(like)


def mix_regions(
    features: Tensor,
    bins: int = 3,
    pool: Literal["max", "mean"] = "max",
    centred: bool = True,
    weights: tuple[float, float, float] = (0.6, 0.3, 0.1),
) -> Tensor:
    """Mix every patch feature with its region's descriptor and the global feature.

    All three terms have unit length: the patch, the region (bilinear between the centres of the
    bins), and the mean of all patches.

    Args:
        features: (B, D, h, w) float.
        bins: regions per side; a grid with fewer patches has one bin per patch.
        pool: descriptor of a region, per channel over its unit patch features.
        centred: subtract the mean descriptor, which all regions share (maxima lie close together).
        weights: of patch, region, global.

    Returns:
        (B, D, h, w) float32, unit columns.
    """
    patches = F.normalize(features.float(), dim=1)
    rows, columns = (bin_edges(length, bins) for length in features.shape[-2:])
    descriptors = region_descriptors(patches, rows, columns, pool)
    if centred:
        descriptors = descriptors - descriptors.mean((2, 3), keepdim=True)
    descriptors = F.normalize(descriptors, dim=1)
    down, across = _between_centres(rows, patches), _between_centres(columns, patches)
    regions = F.normalize(torch.einsum("hk,bdkl,wl->bdhw", down, descriptors, across), dim=1)
    global_feature = F.normalize(patches.mean((2, 3), keepdim=True), dim=1)
    patch_weight, region_weight, global_weight = weights
    return F.normalize(
        patch_weight * patches + region_weight * regions + global_weight * global_feature, dim=1
    )


@stage(
    "regions",
    point="features",
    order=30,
    summary="mix in descriptors of 3x3 regions (thesis CLIP-RC)",
)
@dataclass(frozen=True)
class Regions:
    """Settings of the thesis's regional clues. The CVPR 2024 method called CLIP-RC is trained and
    is not this.

    Attributes:
        bins: regions per side (thesis: 3).
        pool: "max" (thesis) or "mean".
        centred: subtract the mean descriptor.
        patch_weight, region_weight, global_weight: shares of the three terms.
    """

    version: ClassVar[int] = 1
    bins: int = 3
    pool: Literal["max", "mean"] = "max"
    centred: bool = True
    patch_weight: float = 0.6
    region_weight: float = 0.3
    global_weight: float = 0.1

    def __post_init__(self) -> None:
        if self.bins < 2:
            raise RecipeError(
                f"regions.bins is {self.bins!r}; two or more regions per side are needed"
            )
        if self.pool not in ("max", "mean"):
            raise RecipeError(f"regions.pool is {self.pool!r}; choose 'max' or 'mean'")
        for name in ("patch_weight", "region_weight", "global_weight"):
            if getattr(self, name) < 0:
                raise RecipeError(
                    f"regions.{name} is {getattr(self, name)!r}; it must be 0 or more"
                )
        if self.patch_weight == 0 and self.region_weight == 0:
            raise RecipeError(
                "regions: patch_weight and region_weight are both 0, so every patch is the same"
            )

    def inert(self, recipe: object) -> str | None:
        """Patches alone are what they were."""
        alone = self.region_weight == 0 and self.global_weight == 0
        return "region_weight and global_weight are 0" if alone else None

    def on_features(self, features: Tensor, context: object) -> Tensor:
        """(B, D, h, w) -> (B, D, h, w) float32, unit columns."""
        weights = (self.patch_weight, self.region_weight, self.global_weight)
        return mix_regions(features, self.bins, self.pool, self.centred, weights)
