"""Sliding windows: where they lie, and how their logits become those of the picture.

Upsampling a window, adding it to the picture, dividing by the overlap and resizing to the original size are all
linear and separable, so the whole stitch is two small matrix products per picture (`Stitched`), exact to rounding.
"""

import math
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from ovsslib.clip.geometry import bilinear_matrix
from ovsslib.errors import RecipeError
from ovsslib.images.pictures import resize_picture
from ovsslib.recipe import stage

DROPPED = -1e4
"""Logit of a word that is not in the picture, far below any cosine, and still finite after scaling."""


@stage("windows", point="windows", summary="size of the picture and of the sliding windows")
@dataclass(frozen=True)
class WindowSettings:
    """Settings of the sliding window.

    Attributes:
        short_side: the picture is resized so that its short side has this many pixels ...
        long_side: ... unless its long side would exceed this.
        crop: side of a window in pixels; 0 takes the picture whole.
        stride: step between windows in pixels.
        pad_to: windows are padded to a multiple of this; the padding is cut from their logits. 0 is off.
        padding: "even": with the model's mean colour on both sides, the smaller half first (ProxyCLIP and its kin);
            "black": with black at the right and the bottom (LPOSS).
        multiple: the resized picture is stretched until its sides are multiples of this (Trident). 0 is off.
        positions: how CLIP's positional table is resized to the grid of a window (`Backbone.positions`).
        square: the picture is squeezed to short_side x short_side instead; its aspect ratio is not kept.
        resampling: how the picture is resized (`ovsslib.images.pictures.resize_picture`).
        direct: logits go from the patches to the photograph's size in one resize, not by way of the network
            picture's. It holds for whole pictures (crop 0) without padding.
    """

    version: ClassVar[int] = 1
    short_side: int = 336
    long_side: int = 2048
    crop: int = 224
    stride: int = 112
    pad_to: int = 0
    padding: Literal["even", "black"] = "even"
    multiple: int = 0
    positions: Literal[
        "sclip", "size", "size-antialias", "bilinear", "bilinear-half", "bilinear-half-always"
    ] = "sclip"
    square: bool = False
    resampling: Literal["bilinear", "bicubic"] = "bilinear"
    direct: bool = False

    def __post_init__(self):
        if self.crop < 0 or (self.crop and self.stride < 1):
            raise RecipeError(
                f"windows.crop={self.crop}, windows.stride={self.stride}: use crop 0 (whole picture) or positive numbers"
            )
        if self.crop and self.stride > self.crop:
            raise RecipeError(
                f"windows.stride={self.stride} is larger than windows.crop={self.crop}: pixels would be left out"
            )
        for name in ("pad_to", "multiple"):
            if getattr(self, name) < 0:
                raise RecipeError(
                    f"windows.{name}={getattr(self, name)}: use a positive number of pixels, or 0"
                )
        if self.short_side < 16 or self.long_side < self.short_side:
            raise RecipeError(
                f"windows.short_side={self.short_side}, windows.long_side={self.long_side}: need 16 <= short <= long"
            )

    @property
    def in_one_resize(self) -> bool:
        """Whether logits go from the patches to the photograph's size at once."""
        return self.direct and not self.crop and not self.pad_to

    def resized(self, image: np.ndarray) -> np.ndarray:
        """The network picture (h, w, 3) uint8 of an (H, W, 3) uint8 photograph."""
        return resize_picture(
            image, self.short_side, self.long_side, square=self.square, resampling=self.resampling
        )

    def boxes(self, height: int, width: int) -> "WindowGrid":
        """Windows of a picture of height x width pixels."""
        if self.crop == 0:
            return WindowGrid(
                (height, width), (0,), (0,), (height, width), self._pad((height, width))
            )
        size = (min(self.crop, height), min(self.crop, width))
        tops, lefts = self._starts(height, size[0]), self._starts(width, size[1])
        return WindowGrid((height, width), tops, lefts, size, self._pad(size))

    def _pad(self, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """(top, bottom, left, right) pixels of padding around a window."""
        if not self.pad_to:
            return (0, 0, 0, 0)
        rows, columns = (-side % self.pad_to for side in size)
        if self.padding == "black":
            return (0, rows, 0, columns)
        return (rows // 2, rows - rows // 2, columns // 2, columns - columns // 2)

    def inert(self, recipe: Any) -> dict[str, str]:
        """Fields that were changed and have no part here, each with the reason."""
        if recipe.has("ignores_windows"):
            changed = [f.name for f in fields(self) if getattr(self, f.name) != f.default]
            return dict.fromkeys(
                changed, "another stage takes the picture as it is, without windows"
            )
        reasons = {}
        if self.direct and not self.in_one_resize:
            reasons["direct"] = "the picture is cut into windows, or padded"
        if self.padding != "even" and not self.pad_to:
            reasons["padding"] = "pad_to is 0"
        return reasons

    def fill(self, backbone: Any) -> Tensor:
        """Normalised value (3,) of the padding's pixels."""
        zero = torch.zeros(3)
        if self.padding == "even":
            return zero
        mean, std = (torch.tensor(values) for values in backbone.normalisation)
        return (zero - mean) / std

    def stretched(self, height: int, width: int) -> tuple[int, int]:
        """(H, W) of the network picture for a resized picture: as it is, or with sides that are multiples.

        As released: if a side is no multiple, the longer one grows to the next, the shorter one by the same ratio and
        then to its next, and neither is shorter than a window.
        """
        step = self.multiple
        if not step or not (height % step or width % step):
            return height, width
        longer, shorter = max(height, width), min(height, width)
        least = -(-self.crop // step) * step
        long = -(-longer // step) * step
        short = -(-(shorter * long) // (longer * step)) * step
        long, short = max(long, least), max(short, least)
        return (long, short) if height >= width else (short, long)

    def _starts(self, side: int, crop: int) -> tuple[int, ...]:
        count = math.ceil(max(side - crop, 0) / self.stride) + 1
        return tuple(min(i * self.stride, side - crop) for i in range(count))


@dataclass(frozen=True)
class WindowGrid:
    """Windows as a grid of equal crops.

    Attributes:
        picture: (H, W) pixels of the resized picture.
        tops, lefts: first rows and columns of the windows; the last ones are shifted inside.
        size: (height, width) of every window, without padding.
        pad: (top, bottom, left, right) pixels of padding around every window.
    """

    picture: tuple[int, int]
    tops: tuple[int, ...]
    lefts: tuple[int, ...]
    size: tuple[int, int]
    pad: tuple[int, int, int, int] = (0, 0, 0, 0)

    def __len__(self) -> int:
        return len(self.tops) * len(self.lefts)

    def whole(self) -> "WindowGrid":
        """The picture as one window."""
        return one_window(self.picture)

    def crops(self, pixels: Tensor, fill: float | Tensor = 0) -> Tensor:
        """Windows (N, C, h, w) of one picture (C, H, W), row by row, padded with `fill`: a value, or one each (C,)."""
        windows = torch.stack(
            [
                pixels[:, top : top + self.size[0], left : left + self.size[1]]
                for top in self.tops
                for left in self.lefts
            ]
        )
        if any(self.pad):
            top, bottom, left, right = self.pad
            height, width = windows.shape[-2:]
            fill = torch.as_tensor(fill, dtype=windows.dtype, device=windows.device)
            padded = fill.reshape(-1, 1, 1).expand(
                *windows.shape[:2], top + height + bottom, left + width + right
            )
            padded = padded.clone()
            padded[:, :, top : top + height, left : left + width] = windows
            return padded
        return windows


def one_window(size: tuple[int, int]) -> WindowGrid:
    """A picture of (H, W) pixels as one window."""
    return WindowGrid(size, (0,), (0,), size)


class Stitched:
    """Logits of a picture, given by those of its windows, computed row by row when asked for.

    Args:
        windows: (N, Q, h, w) logits of the windows on their patch grids.
        grid: where the windows lie.
        size: (H, W) wanted; the stitched logits are resized to it bilinearly (align_corners False).
    """

    def __init__(self, windows: Tensor, grid: WindowGrid, size: tuple[int, int]):
        self.queries, self.size, self.grid = windows.shape[1], size, grid
        rows, columns = len(grid.tops), len(grid.lefts)
        h, w = windows.shape[-2:]
        self._grids = (rows, columns, h, w)
        self._cells = (
            windows.float()
            .reshape(rows, columns, self.queries, h, w)
            .permute(2, 0, 3, 1, 4)
            .reshape(self.queries, rows * h, columns * w)
        )
        device = windows.device
        self.kept_of_trunk: dict[Any, Any] = {}
        rows_of, columns_of = grid.pad[:2], grid.pad[2:]
        self._down = _axis_matrix(h, grid.tops, grid.size[0], grid.picture[0], size[0], rows_of).to(
            device
        )
        self._across = _axis_matrix(
            w, grid.lefts, grid.size[1], grid.picture[1], size[1], columns_of
        ).to(device)
        self._wide: Tensor | None = None
        self._dropped: Tensor | None = None

    def drop(self, queries: Tensor) -> None:
        """Give the queries of a mask (N,) bool a logit so low that no pixel takes them.

        N is the number of queries, or larger: some stages take texts behind the queries out again.
        """
        self._dropped = queries[: self.queries]

    def windows(self) -> Tensor:
        """Logits (N, Q, h, w) of the windows on their own patch grids, float32."""
        rows, columns, h, w = self._grids
        cells = self._cells.reshape(self.queries, rows, h, columns, w)
        return cells.permute(1, 3, 0, 2, 4).reshape(-1, self.queries, h, w)

    def at(self, size: tuple[int, int]) -> "Stitched":
        """The same, resized to another size (H, W)."""
        result = Stitched(self.windows(), self.grid, size)
        result.kept_of_trunk, result._dropped = self.kept_of_trunk, self._dropped
        return result

    def mix(self, other: "Stitched", weight: float) -> None:
        """Move these logits towards those of a picture of the same windows: (1 - weight) own + weight other."""
        self._cells = torch.lerp(self._cells, other._cells, weight)
        self._wide = None

    def rows(self, start: int, stop: int) -> Tensor:
        """Logits (Q, stop - start, W) of some rows of the picture, float32."""
        return self._part(slice(0, self.queries), slice(start, stop))

    def some(self, start: int, stop: int) -> Tensor:
        """Logits (stop - start, H, W) of some queries, float32."""
        return self._part(slice(start, stop), slice(0, self.size[0]))

    def _part(self, queries: slice, rows: slice) -> Tensor:
        if self._wide is None:
            self._wide = self._cells @ self._across.T
        part = self._down[rows] @ self._wide[queries]
        if self._dropped is not None:
            part[self._dropped[queries].to(part.device)] = DROPPED
        return part

    def full(self) -> Tensor:
        """Logits (Q, H, W) of the whole picture, float32."""
        return self.rows(0, self.size[0])


def _axis_matrix(
    cells: int,
    starts: tuple[int, ...],
    crop: int,
    side: int,
    target: int,
    pad: tuple[int, int] = (0, 0),
) -> Tensor:
    """(target, windows * cells): upsample each window, cut its padding, average overlaps, resize."""
    up = bilinear_matrix(cells, pad[0] + crop + pad[1])[pad[0] : pad[0] + crop]
    placed = torch.zeros(side, len(starts), cells)
    count = torch.zeros(side)
    for index, start in enumerate(starts):
        placed[start : start + crop, index] = up
        count[start : start + crop] += 1
    placed = placed.reshape(side, -1) / count[:, None]
    if target == side:
        return placed
    # torch interpolates the columns of `placed` as it would interpolate the picture
    return torch.nn.functional.interpolate(
        placed.T[None], size=target, mode="linear", align_corners=False
    )[0].T.contiguous()
