"""Small tensors that depend on a grid alone: neighbourhoods of patches, bilinear interpolation as matrices."""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor


@lru_cache(maxsize=32)
def neighbourhood(grid: tuple[int, int], std: float) -> Tensor:
    """NACLIP's Omega (1 + h * w, 1 + h * w), float32: exp(-squared patch distance / (2 std^2)).

    Zero in the row and column of the class token (Hajimiri et al., WACV 2025, section 3.2). Read-only: cached.
    """
    rows, columns = torch.meshgrid(*(torch.arange(float(n)) for n in grid), indexing="ij")
    cells = torch.stack([rows.flatten(), columns.flatten()], dim=1)
    distance = (cells[:, None] - cells[None]).square().sum(-1)
    omega = torch.zeros(len(cells) + 1, len(cells) + 1)
    omega[1:, 1:] = torch.exp(-distance / (2 * std**2))
    return omega


@lru_cache(maxsize=256)
def bilinear_matrix(size: int, target: int) -> Tensor:
    """Bilinear interpolation (align_corners False) of `size` cells to `target` as a (target, size) matrix.

    Taken from PyTorch's own interpolation of the unit vectors, so that products with it give its results.
    """
    return F.interpolate(torch.eye(size)[None], size=target, mode="linear", align_corners=False)[
        0
    ].T.contiguous()
