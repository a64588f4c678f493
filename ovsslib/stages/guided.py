"""Attention that a second encoder's features give and CLIP's values fill: pure functions of ProxyCLIP and its kin.

Source: Lan et al., "ProxyCLIP", ECCV 2024; the same arithmetic serves Trident (Shi et al., ICCV 2025) and CorrCLIP's
values (Zhang et al., ICCV 2025).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ovsslib.clip.backbone import Backbone
from ovsslib.stages.stitching import ENTRIES


def unit_patches(features: Tensor) -> Tensor:
    """Features (B, C, H, W) of a guide -> (B, H W, C) float32, each patch of unit length."""
    return F.normalize(features.float(), dim=1).flatten(2).transpose(1, 2)


def values_on(heads: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Values of a block on another grid.

    Args:
        heads: (B, heads, 1 + h w, d), class token first; it is dropped.
        grid: (h, w).
        size: (H, W) wanted; bilinear (align_corners False) where it differs.

    Returns:
        (B, H W, heads d) float32, heads side by side.
    """
    values = heads[:, :, 1:].transpose(1, 2).flatten(2).float()
    if grid == size:
        return values
    maps = values.transpose(1, 2).unflatten(2, grid)
    return F.interpolate(maps, size=size, mode="bilinear").flatten(2).transpose(1, 2)


def mean_similarity(features: Tensor) -> Tensor:
    """Mean cosine (B,) of all pairs of patches of each window, itself included: (B, N, C) unit -> float64.

    The mean of all products is the product of the means, so no (N, N) matrix is needed.
    """
    return features.double().mean(dim=1).square().sum(dim=-1)


def guided_weights(
    features: Tensor, rows: slice, mean: float, beta: float = 1.2, gamma: float = 3.0
) -> Tensor:
    """Attention weights of some rows: softmax((S - beta mean) gamma) over the entries that are not negative.

    Args:
        features: (N, C) unit features.
        rows: which patches ask.
        mean: mean of all similarities S.

    Returns:
        (n, N) float32. A row without any such entry, which the released code makes NaN (mean above 1 / beta), looks
        at its best entry alone.
    """
    scores = (features[rows] @ features.T).sub_(beta * mean).mul_(gamma)
    cut = scores.amax(dim=1, keepdim=True).clamp_max(0)
    return scores.masked_fill_(scores < cut, -math.inf).softmax(dim=-1)


def guided_attention(
    features: Tensor, values: Tensor, mean: float, beta: float = 1.2, gamma: float = 3.0
) -> Tensor:
    """Values (N, D) mixed by :func:`guided_weights`: (N, D) float32.

    Rows are worked out in parts, so that memory stays bounded however many patches there are.
    """
    features, values = features.float(), values.float()
    step = max(1, ENTRIES // len(features))
    parts = [
        guided_weights(features, slice(start, start + step), mean, beta, gamma) @ values
        for start in range(0, len(features), step)
    ]
    return torch.cat(parts)


def out_projection(backbone: Backbone, mixed: Tensor) -> Tensor:
    """Mixed values (..., width) through the last block's output layer (and its layer scale, if it has one)."""
    last = backbone.layers - 1
    return backbone.blocks[last].ls_1(backbone.output_layer(last, mixed))
