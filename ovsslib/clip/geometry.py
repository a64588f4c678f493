"""Small tensors that depend on a grid alone: neighbourhoods of patches, bilinear interpolation as matrices."""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor


def neighbourhood(grid: tuple[int, int], std: float) -> Tensor:
    """NACLIP's Omega (1 + h * w, 1 + h * w), float32: exp(-squared patch distance / (2 std^2)).

    Zero in the row and column of the class token (Hajimiri et al., WACV 2025, section 3.2). Read-only: cached, but
    for a grid whose sides are symbols, as they are while a graph of any size is traced.
    """
    if all(isinstance(side, int) for side in grid):
        return _kept_neighbourhood(grid, std)
    return _neighbourhood(grid, std)


def squared_distances(grid: tuple[int, int]) -> Tensor:
    """(h * w, h * w) float32: squared distance of each patch to each, in patches."""
    sides = (torch.arange(n, dtype=torch.float32) for n in grid)
    rows, columns = torch.meshgrid(*sides, indexing="ij")
    cells = torch.stack([rows.flatten(), columns.flatten()], dim=1)
    return (cells[:, None] - cells[None]).square().sum(-1)


def _neighbourhood(grid: tuple[int, int], std: float) -> Tensor:
    omega = torch.exp(-squared_distances(grid) / (2 * std**2))
    return F.pad(omega, (1, 0, 1, 0))


_kept_neighbourhood = lru_cache(maxsize=32)(_neighbourhood)


@lru_cache(maxsize=256)
def bilinear_matrix(size: int, target: int) -> Tensor:
    """Bilinear interpolation (align_corners False) of `size` cells to `target` as a (target, size) matrix.

    Taken from PyTorch's own interpolation of the unit vectors, so that products with it give its results.
    """
    return F.interpolate(torch.eye(size)[None], size=target, mode="linear", align_corners=False)[
        0
    ].T.contiguous()
