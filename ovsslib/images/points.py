"""Points from a heat map: where a word certainly is and where it is not, as a prompt for a mask model."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ovsslib.errors import ImageError


def points_of_map(
    heat: Tensor | np.ndarray, size: tuple[int, int], threshold: float = 0.8
) -> tuple[np.ndarray, np.ndarray]:
    """Positive and negative points of one word, as CLIP Surgery hands them to SAM (arXiv 2304.05653, released code).

    The map is halved (bilinear) and stretched to [0, 1]. With n cells at `threshold` or above, but at most half of all
    cells, the n highest are positive points, the n lowest negative ones.

    Args:
        heat: (h, w) of any range: similarities of a word with the patches.
        size: (H, W) pixels of the picture that the points are for.
        threshold: share of the map's range from which a cell counts as the word, 0 to 1.

    Returns:
        Points (2 n, 2) int64 as (x, y) pixels, positive ones first, rising; and their labels (2 n,) uint8, 1 and 0.

    Raises ImageError for a map that is not two-dimensional or not finite.
    """
    cells = torch.as_tensor(heat).float()
    if cells.ndim != 2 or not cells.numel() or not torch.isfinite(cells).all():
        raise ImageError(f"a heat map is (h, w) finite numbers, not {tuple(cells.shape)}")
    half = tuple(max(side // 2, 1) for side in cells.shape)
    cells = F.interpolate(cells[None, None], size=half, mode="bilinear")[0, 0].flatten()
    span = cells.max() - cells.min()
    cells = (cells - cells.min()) / span if span > 0 else torch.zeros_like(cells)
    count = min(int((cells >= threshold).sum()), len(cells) // 2)
    order = cells.argsort(stable=True)
    chosen = torch.cat([order[len(order) - count :], order[:count]])
    row, column = (chosen // half[1]).double(), (chosen % half[1]).double()
    x = ((column + 0.5) * size[1] / half[1]).clamp(max=size[1] - 1).long()
    y = ((row + 0.5) * size[0] / half[0]).clamp(max=size[0] - 1).long()
    labels = np.repeat(np.array([1, 0], dtype=np.uint8), count)
    return torch.stack([x, y], dim=1).numpy(), labels
