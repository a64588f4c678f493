"""Image engineering of ITACLIP: one window is encoded as several pictures, and the answers are
averaged.

Source: Aydin et al., "ITACLIP", CVPR Workshops 2025, section 3.3 (equations 10 and 11), and its
released code. The views that keep every pixel in place (original, grayscale, blur) are averaged as
features, the two flips as logits that are flipped back. A flip matters because the positional
embedding is not flipped with the picture.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from ovsslib.errors import ImageError, RecipeError
from ovsslib.recipe import Recipe, stage

IN_PLACE = ("original", "grayscale", "blur")
FLIPS = {"vertical_flip": -2, "horizontal_flip": -1}  # axis that is turned round
VIEWS = (*IN_PLACE, *FLIPS)
_LUMA = (0.2989, 0.587, 0.114)


def grayscale(pixels: Tensor) -> Tensor:
    """(B, 3, H, W) RGB -> its luma on all three channels.

    ITACLIP applies it to normalised pixels, so that this is not quite a gray photo; kept as
    released.
    """
    weights = pixels.new_tensor(_LUMA).view(1, 3, 1, 1)
    return (pixels * weights).sum(1, keepdim=True).expand_as(pixels)


def gaussian_blur(pixels: Tensor, size: int = 11, sigma: float = 5.0) -> Tensor:
    """(B, C, H, W) -> blurred by a `size` x `size` Gaussian (pixels), borders reflected.

    Raises ImageError if a side is too short to reflect, that is below `size // 2 + 1` pixels.
    """
    radius = size // 2
    if min(pixels.shape[-2:]) <= radius:
        raise ImageError(
            f"a window of {tuple(pixels.shape[-2:])} pixels is too small for a blur of {size} "
            "pixels; enlarge it or leave `blur` out of image_engineering.use"
        )
    position = torch.arange(-radius, radius + 1, dtype=torch.float32, device=pixels.device)
    kernel = torch.exp(-0.5 * (position / sigma) ** 2)
    kernel = (kernel / kernel.sum()).to(pixels.dtype)
    channels = pixels.shape[1]
    padded = F.pad(pixels, (radius,) * 4, mode="reflect")
    down = F.conv2d(padded, kernel.view(1, 1, size, 1).repeat(channels, 1, 1, 1), groups=channels)
    return F.conv2d(down, kernel.view(1, 1, 1, size).repeat(channels, 1, 1, 1), groups=channels)


def merge_views(
    features: Sequence[Tensor], text: Tensor, views: Sequence[str], weight: float
) -> Tensor:
    """Logits of all views together: L = g L1 + (1 - g) L2 (ITACLIP, equation 11).

    L1 are the cosines of the mean of the in-place views' features; the mean is not normalised again
    (equation 10). L2 is the mean of the flipped views' cosines, flipped back. With one kind of view
    only, that kind counts fully. The released code flips back after upsampling to the window's size; bilinear
    upsampling is linear and symmetric, so flipping back on the patch grid is the same.

    Args:
        features: per view a (B, D, h, w) map of unit columns, in the order of `views`.
        text: (Q, D) unit rows, or (B, Q, D) of each window. views: names out of `VIEWS`. weight: g, 0..1.

    Returns:
        (B, Q, h, w) cosines (means of them), dtype of the features.
    """
    if len(features) != len(views):
        raise RecipeError(f"{len(features)} feature maps for {len(views)} views {tuple(views)}")
    in_place = [
        feature_map for feature_map, view in zip(features, views, strict=True) if view in IN_PLACE
    ]
    flipped = [
        feature_map.flip(FLIPS[view])
        for feature_map, view in zip(features, views, strict=True)
        if view in FLIPS
    ]
    if in_place and flipped:
        mixed = weight * _mean(in_place) + (1 - weight) * _mean(flipped)
    else:
        mixed = _mean(in_place or flipped)
    return torch.einsum(
        "bqd,bdhw->bqhw" if text.ndim == 3 else "qd,bdhw->bqhw", text.to(mixed), mixed
    )


def _mean(maps: Sequence[Tensor]) -> Tensor:
    return cast(Tensor, sum(maps)) / len(maps)


@stage(
    "image_engineering",
    point="views",
    summary="average over gray, blurred and flipped views (ITACLIP)",
)
@dataclass(frozen=True)
class ImageEngineering:
    """Settings of image engineering.

    Attributes:
        use: which views of a window are encoded, out of `VIEWS`; kept in that order.
        weight: g, share of the in-place views. Released: 0.7 (VOC21, Cityscapes) or 0.75 (others).
        blur_size: side of the blur in pixels, odd. blur_sigma: its width in pixels.
    """

    version: ClassVar[int] = 1
    use: tuple[str, ...] = VIEWS
    weight: float = 0.75
    blur_size: int = 11
    blur_sigma: float = 5.0

    def __post_init__(self) -> None:
        unknown = [view for view in self.use if view not in VIEWS]
        if unknown or not self.use or len(set(self.use)) < len(self.use):
            raise RecipeError(
                f"image_engineering.use is {self.use!r}; give one or more of "
                f"{', '.join(VIEWS)}, each once"
            )
        object.__setattr__(self, "use", tuple(view for view in VIEWS if view in self.use))
        if not 0 <= self.weight <= 1:
            raise RecipeError(
                f"image_engineering.weight is {self.weight!r}; it must be between 0 and 1"
            )
        if self.blur_size < 1 or self.blur_size % 2 == 0:
            raise RecipeError(
                f"image_engineering.blur_size is {self.blur_size!r}; give an odd number"
            )
        if not self.blur_sigma > 0:
            raise RecipeError(
                f"image_engineering.blur_sigma is {self.blur_sigma!r}; give a number above 0"
            )

    def refuse(self, recipe: Recipe) -> str | None:
        """Stages that look at the first view's features need them unflipped."""
        if recipe.has("compares_in_place") and self.use[0] in FLIPS:
            return "feedback compares features in place; put `original` into image_engineering.use"
        return None

    def inert(self, recipe: Recipe) -> str | None:
        """One view that is the original changes nothing."""
        return "the original is the only view" if self.use == ("original",) else None

    def views(self, pixels: Tensor) -> list[Tensor]:
        """(B, 3, H, W) normalised windows -> one such tensor per view, in the order of `use`."""
        makers: dict[str, Callable[[], Tensor]] = {
            "original": lambda: pixels,
            "grayscale": lambda: grayscale(pixels),
            "blur": lambda: gaussian_blur(pixels, self.blur_size, self.blur_sigma),
            **{name: partial(pixels.flip, axis) for name, axis in FLIPS.items()},
        }
        return [makers[view]() for view in self.use]

    def merge(self, features: Sequence[Tensor], text: Tensor) -> Tensor:
        """Per view (B, D, h, w) unit features and text (Q, D) or (B, Q, D) -> (B, Q, h, w) logits."""
        return merge_views(features, text, self.use, self.weight)
