"""Maps of sliding windows put together on the picture's own grid of patches (OV-Stitcher, Moon et al., CVPR 2026)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ovsslib.errors import RecipeError

ENTRIES = 16_000_000  # entries of a score matrix held at a time (float32)


@dataclass(frozen=True)
class PatchGrid:
    """Patches of one size, of windows and of the picture that they are cut from.

    Attributes:
        windows: where the windows lie (`WindowGrid`).
        patch: side of a patch in pixels.
    """

    windows: Any
    patch: int

    @property
    def window(self) -> tuple[int, int]:
        """(rows, columns) of a window, its padding included."""
        top, bottom, left, right = self.windows.pad
        height, width = self.windows.size
        return (top + height + bottom) // self.patch, (left + width + right) // self.patch

    def stitched(self, maps: Tensor) -> Tensor:
        """Maps (N, C, h, w) of the windows -> (C, H // patch, W // patch) of the picture; see :func:`stitch`."""
        corners = [(top, left) for top in self.windows.tops for left in self.windows.lefts]
        maps = without_padding(maps, self.windows, self.patch)
        return stitch(maps, corners, self.patch, self.windows.picture)

    def stitched_tokens(self, tokens: Tensor) -> Tensor:
        """The same for patches (N, S, C), row by row."""
        return self.stitched(tokens.transpose(1, 2).unflatten(2, self.window))


def without_padding(maps: Tensor, grid: Any, patch: int) -> Tensor:
    """Maps (N, C, h, w) of padded windows without the patches of the padding.

    Args:
        grid: where the windows lie (`WindowGrid`): its `pad` (top, bottom, left, right) and `size` in pixels.
        patch: side of a patch in pixels.
    """
    top, _, left, _ = grid.pad
    if not any(grid.pad):
        return maps
    rows, columns = -(-top // patch), -(-left // patch)
    height, width = grid.size[0] // patch, grid.size[1] // patch
    return maps[:, :, rows : rows + height, columns : columns + width]


def stitch(
    maps: Tensor, corners: Sequence[tuple[int, int]], patch: int, picture: tuple[int, int]
) -> Tensor:
    """Mean over windows of their maps, on the grid of patches of the whole picture.

    A window whose corner is no multiple of the patch is placed at the patch that holds the corner, up to patch - 1
    pixels off, as in the released code.

    Args:
        maps: (N, C, h, w) one map per window.
        corners: (top, left) pixel of each window.
        patch: side of a patch in pixels.
        picture: (H, W) pixels.

    Returns:
        (C, H // patch, W // patch), of the maps' dtype, summed in float32.

    Raises RecipeError for a patch of the picture that no window covers.
    """
    size = (picture[0] // patch, picture[1] // patch)
    total = torch.zeros(maps.shape[1], *size, device=maps.device)
    count = torch.zeros(size, device=maps.device)
    for window_map, (top, left) in zip(maps, corners, strict=True):
        row, column = top // patch, left // patch
        place = (slice(row, row + window_map.shape[1]), slice(column, column + window_map.shape[2]))
        space = total[:, place[0], place[1]]
        total[:, place[0], place[1]] += window_map[:, : space.shape[1], : space.shape[2]].float()
        count[place] += 1
    if not bool((count > 0).all()):
        bare = torch.nonzero(count == 0)[0].tolist()
        raise RecipeError(
            f"no window covers the patch at row {bare[0]}, column {bare[1]} of the picture, so the windows cannot be "
            f"stitched; make windows.crop a multiple of {patch} and windows.stride smaller than it"
        )
    return (total / count).to(maps.dtype)


def attend_rows(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """softmax(q k^T scale) v of (N, D) by rows, so that memory stays bounded: (N, D) float32."""
    q, k, v = q.float() * scale, k.float(), v.float()
    step = max(1, ENTRIES // len(k))
    parts = [(q[i : i + step] @ k.T).softmax(dim=-1) @ v for i in range(0, len(q), step)]
    return torch.cat(parts)
