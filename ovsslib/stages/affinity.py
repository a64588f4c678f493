"""Attention of the trunk as an affinity of patches, and boxes around the peaks of a map.

Pure functions that FreeCP shares with the methods of its family (CLIP-ES, TagCLIP, CaR): the mean attention of
blocks, made doubly stochastic by Sinkhorn's iteration, spreads a map; boxes around its peaks bound it.
"""

from typing import cast

import numpy as np
import scipy  # its parts load when first used
from torch import Tensor

EIGHT = np.ones((3, 3), dtype=int)  # neighbours that share a corner belong to one component


def mean_attention(taps, scale: float) -> Tensor:
    """Mean over blocks and heads of softmax(q k^T scale) between patches.

    The softmax runs over the class token too; its row and column are cut afterwards.

    Args:
        taps: blocks' projections (ovsslib.clip.backbone.Tap), each with q, k (B, heads, 1 + N, d).
        scale: factor of the raw similarities.

    Returns:
        (B, N, N) float32. One head is worked on at a time, so that memory stays at a few (B, N, N).
    """
    total: Tensor | None = None
    count = 0
    for tap in taps:
        for head in range(tap.q.shape[1]):
            scores = (tap.q[:, head] * scale) @ tap.k[:, head].transpose(-2, -1)
            weights = scores.softmax(dim=-1)[:, 1:, 1:].float()
            total = weights if total is None else total.add_(weights)
            count += 1
    return cast(Tensor, total) / count


def transition_matrix(attention: Tensor, rounds: int = 3) -> Tensor:
    """Symmetric, nearly doubly stochastic square of an attention matrix (..., N, N), float32.

    `rounds` times: columns divided by their sums, then rows by theirs. Then T1 = (T0 + T0^T) / 2 and T1 T1
    (CLIP-ES, equation 6; FreeCP, equation 3).
    """
    matrix = attention.float()
    for _ in range(rounds):
        matrix = matrix / matrix.sum(dim=-2, keepdim=True)
        matrix = matrix / matrix.sum(dim=-1, keepdim=True)
    matrix = (matrix + matrix.transpose(-2, -1)) / 2
    return matrix @ matrix


def component_boxes(
    values: np.ndarray, threshold: float, holes: bool = False
) -> list[tuple[int, int, int, int]]:
    """Boxes around the peaks of a map (h, w) with values in [0, 1].

    u = floor(255 values) as uint8; cells with u > floor(threshold max u) form 8-connected components. Each gives
    (top, bottom, left, right), ends exclusive and, as in the released codes, never beyond the last row or column
    but one: a component that lies in the last row or column alone gives an empty box.

    Args:
        holes: also one box for every hole of a component (a 4-connected region of other cells that does not reach
            the border), grown by a cell on every side: what a search for contours finds.
    """
    levels = (255 * values).astype(np.uint8)
    binary = levels > int(threshold * levels.max())
    components, _ = scipy.ndimage.label(binary, structure=EIGHT)
    spans = list(scipy.ndimage.find_objects(components))
    if holes:
        spans += _hole_spans(binary)
    height, width = values.shape
    return [
        (rows.start, min(rows.stop, height - 1), columns.start, min(columns.stop, width - 1))
        for rows, columns in spans
    ]


def _hole_spans(binary: np.ndarray) -> list[tuple[slice, slice]]:
    """Slices of the holes, each grown by one cell."""
    empty, _ = scipy.ndimage.label(~binary)
    height, width = binary.shape
    spans = []
    for rows, columns in scipy.ndimage.find_objects(empty):
        inside = (
            rows.start > 0 and columns.start > 0 and rows.stop < height and columns.stop < width
        )
        if inside:
            spans.append(
                (slice(rows.start - 1, rows.stop + 1), slice(columns.start - 1, columns.stop + 1))
            )
    return spans


def box_mask(values: np.ndarray, threshold: float) -> np.ndarray:
    """Union of :func:`component_boxes` as a mask (h, w) bool."""
    mask = np.zeros(values.shape, dtype=bool)
    for top, bottom, left, right in component_boxes(values, threshold):
        mask[top:bottom, left:right] = True
    return mask


def unit_range(values: Tensor, dim: int = -1, eps: float = 1e-8) -> Tensor:
    """(x - min) / (max - min + eps) along a dimension."""
    low = values.amin(dim=dim, keepdim=True)
    return (values - low) / (values.amax(dim=dim, keepdim=True) - low + eps)
