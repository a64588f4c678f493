"""Label propagation on graphs: the Laplacian of patches of all windows, and its solution (LPOSS).

Source: Stojnic et al., "LPOSS: Label Propagation Over Patches and Pixels for Open-vocabulary Semantic Segmentation",
CVPR 2025, and the released code's arithmetic.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy  # its parts load when first used
import torch
from torch import Tensor

from ovsslib.stages.stitching import ENTRIES

TOLERANCE = 1e-6  # of the residual, relative to the right-hand side, as released


def patch_places(corners: Sequence[tuple[int, int]], grid: tuple[int, int], patch: int) -> Tensor:
    """Centres (N, 2) float32 (row, column) of the patches of all windows, in pixels of the picture.

    Args:
        corners: (top, left) pixel of each window.
        grid: (h, w) patches of a window.
        patch: side of a patch in pixels.
    """
    rows, columns = (torch.arange(n) * patch + patch // 2 for n in grid)
    centres = torch.cartesian_prod(rows, columns)
    return torch.cat([centres + torch.tensor(corner) for corner in corners]).float()


def patch_laplacian(
    features: Tensor,
    places: Tensor,
    neighbours: int = 400,
    gamma: float = 3.0,
    sigma: float = 0.01,
    power: float = 1.0,
    alpha: float = 0.95,
) -> "scipy.sparse.csr_matrix":
    """I - alpha D^-1/2 W D^-1/2 of the graph of patches, (N, N) float64.

    Every patch i has edges `max(0, f_i . f_j)^gamma exp(-sigma |p_i - p_j|^power)` to the patches j whose features are
    nearest; W is that plus its transpose, so a pair in both lists counts twice. No patch has an edge to itself.

    Args:
        features: (N, C) unit features.
        places: (N, 2) pixels.
        neighbours: number of nearest patches, itself included; at most N.
        gamma, sigma, power: see above. alpha: weight of the graph against what was known before.
    """
    count = len(features)
    features, neighbours = features.float().cpu(), min(neighbours, count)
    step = max(1, ENTRIES // count)
    weights, columns = [], []
    for start in range(0, count, step):
        alike, nearest = (features[start : start + step] @ features.T).topk(neighbours, dim=1)
        gap = (places[start : start + step, None] - places[nearest]).square().sum(-1).sqrt()
        weights.append(alike.clamp_min(0).pow(gamma) * torch.exp(-sigma * gap.pow(power)))
        columns.append(nearest)
    ends = np.arange(count + 1) * neighbours
    values, index = torch.cat(weights).flatten().numpy(), torch.cat(columns).flatten().numpy()
    graph = scipy.sparse.csr_matrix((values, index, ends), shape=(count, count))
    graph = graph + graph.T
    graph.setdiag(0)
    graph.eliminate_zeros()
    degree = np.asarray(graph.sum(axis=1)).ravel()
    scale = scipy.sparse.diags(1 / np.sqrt(np.where(degree == 0, 1, degree)).astype(np.float32))
    normal = (scale @ graph @ scale).astype(np.float64)
    return (scipy.sparse.identity(count, format="csr") - alpha * normal).tocsr()


def conjugate_gradient(
    apply: Callable[[Any], Any], right: Any, iterations: int = 10, tolerance: float = TOLERANCE
) -> Any:
    """Solutions of A x = y for the rows y (Q, ...) of `right`, each with steps of its own, from 0.

    Works on NumPy arrays and tensors in float64. A row is left alone once its residual is at most `tolerance` times
    the norm of y. The released code stops at 10 iterations, far from the solution on pixels: keep them.

    Args:
        apply: function (Q, ...) -> (Q, ...), A on every row; A symmetric and positive.
    """

    def dot(first: Any, second: Any) -> Any:
        return (first * second).reshape(len(first), -1).sum(-1)

    def wide(values: Any) -> Any:
        return values.reshape(len(values), *[1] * (right.ndim - 1))

    solution, residual = right * 0, right * 1
    direction, rho = residual * 1, dot(residual, residual)
    limit = rho * tolerance**2
    for _ in range(iterations):
        going = rho > limit
        if not going.any():
            break
        image = apply(direction)
        size = dot(direction, image)
        # a finished row has a step of 0; the divisor 1 keeps it from being 0 / 0
        step = going * rho / (size + (size == 0))
        solution = solution + wide(step) * direction
        residual = residual - wide(step) * image
        after = dot(residual, residual)
        direction = residual + wide(after / (rho + (rho == 0))) * direction
        rho = going * after + ~going * rho
    return solution


def propagated(
    laplacian: "scipy.sparse.csr_matrix", logits: Tensor, iterations: int = 10
) -> Tensor:
    """Columns (N, Q) of logits propagated over a graph: (N, Q) float32, on the logits' device."""
    right = np.ascontiguousarray(logits.detach().cpu().double().numpy().T)
    out = conjugate_gradient(lambda rows: (laplacian @ rows.T).T, right, iterations)
    return torch.from_numpy(np.ascontiguousarray(out.T)).float().to(logits.device)
