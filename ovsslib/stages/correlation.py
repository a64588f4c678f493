"""A second model's own attention mixes a map of the picture: Trident's correlation matrix, worked out by rows.

Source: Shi, Dong, Xu, "Harnessing Vision Foundation Models for High-Performance, Training-Free Open Vocabulary
Segmentation" (Trident), ICCV 2025, and the released code's arithmetic.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ovsslib.stages.stitching import ENTRIES

Rows = Callable[[slice], Tensor]
"""Function (rows) -> softmaxed attention (heads, n, N) of some cells to all."""
HIGHEST, IN_PLACE_OF_NEGATIVE = 0.9, 0.6  # of thresholds, as released


def correlation_weights(
    attention: Tensor,
    values: Tensor,
    rows: slice,
    factor: float = 1.2,
    keep_negative: bool = True,
) -> Tensor:
    """Some rows of G: the mean over heads of the attention to cells whose values are alike, each row summing to 1.

    Cell j counts for cell i in a head if the cosine of their values there is above a threshold: `factor` times the
    mean cosine of i to all cells in all heads, at most 0.9.

    Args:
        attention: (heads, n, N) softmaxed weights of these rows.
        values: (heads, N, d) unit values of all cells.
        rows: which cells these are.
        keep_negative: leave negative thresholds as they are; else they become 0.6.

    Returns:
        (n, N) float32. A cell is always alike to itself, so no row is empty unless its own weight is 0.
    """
    alike = values[:, rows] @ values.transpose(1, 2)
    threshold = factor * alike.mean(dim=(0, 2))
    if not keep_negative:
        threshold = threshold.masked_fill(threshold < 0, IN_PLACE_OF_NEGATIVE)
    threshold = threshold.clamp_max(HIGHEST)
    weights = attention.masked_fill(alike <= threshold[:, None], 0).mean(dim=0)
    return weights / weights.sum(dim=1, keepdim=True).clamp_min(1e-12)


def correlated(
    cells: Tensor,
    attention: Rows,
    values: Tensor,
    factor: float = 1.2,
    keep_negative: bool = True,
) -> Tensor:
    """Cells (N, D) mixed by :func:`correlation_weights`: (N, D) float32. Rows in parts, so that memory stays bounded.

    Args:
        values: (heads, N, d), any length.
    """
    cells, values = cells.float(), F.normalize(values.float(), dim=-1)
    step = max(1, ENTRIES // (values.shape[0] * values.shape[1]))
    parts = []
    for start in range(0, len(cells), step):
        rows = slice(start, min(start + step, len(cells)))
        weights = correlation_weights(attention(rows), values, rows, factor, keep_negative)
        parts.append(weights @ cells)
    return torch.cat(parts)


def attention_rows(q: Tensor, k: Tensor, prefix: int) -> Rows:
    """Softmaxed attention between patches by rows, cut from that over all tokens and not normalised again.

    Args:
        q, k: (heads, T, d) projections of all tokens; the first `prefix` of them are no patches.
    """
    scale = q.shape[-1] ** -0.5

    def rows_of(rows: slice) -> Tensor:
        queries = q[:, prefix:][:, rows].float() * scale
        return (queries @ k.float().transpose(1, 2)).softmax(dim=-1)[:, :, prefix:]

    return rows_of
