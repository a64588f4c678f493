"""Region masks that bound who attends to whom: pure functions of CorrCLIP (Zhang et al., ICCV 2025) and OV-Stitcher.

A region map holds an id per cell. Its smallest id means "not segmented", whether or not it is 0, as in the released
code.
"""

import math

import scipy  # its parts load when first used
import torch
import torch.nn.functional as F
from torch import Tensor

from ovsslib.clip.backbone import Backbone, TrunkOutput
from ovsslib.stages.stitching import ENTRIES

MERGED = 10000  # id of the first merged region, as in the released code


def resized_regions(regions: Tensor, size: tuple[int, int]) -> Tensor:
    """Region ids (..., H, W) -> nearest neighbours on another grid (..., h, w), int64."""
    flat = regions.reshape(1, -1, *regions.shape[-2:]).double()
    return F.interpolate(flat, size=size, mode="nearest").long().reshape(*regions.shape[:-2], *size)


def merged_regions(regions: Tensor, features: Tensor, distance: float = 0.2) -> Tensor:
    """Regions whose mean features are alike become one (step 1).

    Args:
        regions: (H, W) int64 ids.
        features: (C, H, W) unit features on the same grid.
        distance: two regions are alike if their cosine is at most this below the largest of all pairs; what that
            links, in any number of steps, is one region (DBSCAN with one sample).

    Returns:
        (H, W) int64: the smallest id stays, the others get 10000 + number of their group. With two ids or fewer
        nothing is merged.
    """
    ids = regions.unique()
    if len(ids) <= 2:
        return regions
    flat, index = features.flatten(1).float().T, regions.flatten()
    means = torch.stack([flat[index == region].mean(dim=0) for region in ids[1:]])
    means = F.normalize(means, dim=-1)
    alike = means @ means.T
    close = (alike.max() - alike <= distance).cpu().numpy()
    _, group = scipy.sparse.csgraph.connected_components(
        scipy.sparse.csr_matrix(close), directed=False
    )
    out = regions.clone()
    for region, number in zip(ids[1:].tolist(), group.tolist(), strict=True):
        out[regions == region] = MERGED + number
    return out


def scoped_attention(
    features: Tensor, regions: Tensor, values: list[Tensor], tau: float
) -> list[Tensor]:
    """Attention between patches of one region, and between alike patches where one is not segmented (step 2).

    Pairs of one region other than the smallest id may meet; pairs with a patch of the smallest id if their similarity
    is above the mean of all pairs'. Weights are softmax(tau similarity).

    Args:
        features: (N, C) unit features.
        regions: (N,) int64 merged ids.
        values: tensors (N, D) that are mixed by the same weights.

    Returns:
        tensors (N, D) float32. Rows are worked out in parts, so that memory stays bounded.
    """
    features = features.float()
    # the mean of all products is the product of the means
    centre = features.double().mean(dim=0)
    mean = float(centre @ centre)
    loose = regions == regions.min()
    step = max(1, ENTRIES // len(features))
    parts: list[list[Tensor]] = [[] for _ in values]
    for start in range(0, len(features), step):
        rows = slice(start, start + step)
        similar = features[rows] @ features.T
        same = (regions[rows, None] == regions) & ~loose
        allowed = same | ((loose[rows, None] | loose) & (similar > mean))
        # a patch may always see itself: its similarity of 1 is above the mean unless all patches are equal, where the
        # released code has no number
        allowed.diagonal(start).fill_(True)
        weights = similar.mul_(tau).masked_fill_(~allowed, -math.inf).softmax(dim=-1)
        for part, value in zip(parts, values, strict=True):
            part.append(weights @ value.float())
    return [torch.cat(part) for part in parts]


def region_tokens(backbone: Backbone, trunk: TrunkOutput, regions: Tensor, ids: Tensor) -> Tensor:
    """One token per region through the whole tower (step 3).

    It starts as the class token and sees, in every block, the class token and the patches of its region, not itself.
    Patches and class token do not see it, so the plain tower's keys and values serve, and no second pass is made.

    Args:
        trunk: of one window or more, with taps of all blocks and the input of block 0.
        regions: (B, h, w) ids on the tower's grid.
        ids: (K,) the regions that get a token; one that a window does not hold sees the class token alone.

    Returns:
        (B, K, width) behind the last block, before ln_post.
    """
    tokens = trunk.inputs[0][:, :1].expand(-1, len(ids), -1)
    members = regions.flatten(1)[:, None] == ids[None, :, None]
    visible = torch.cat([members.new_ones(members.shape[0], members.shape[1], 1), members], dim=2)
    for index in range(backbone.layers):
        tap, block = trunk.taps[index], backbone.blocks[index]
        q = backbone.project(index, tokens).q
        mixed = F.scaled_dot_product_attention(q, tap.k, tap.v, attn_mask=visible[:, None])
        tokens = tokens + block.ls_1(backbone.join(index, mixed))
        tokens = tokens + backbone.feed_forward(index, tokens)
    return tokens


def middle_blocks(layers: int) -> range:
    """0-based blocks whose outputs are averaged (step 4): five of 12, up to the last but two."""
    count = {12: 5, 24: 12, 32: 28}.get(layers, max(1, layers - 4))
    return range(max(0, layers - 2 - count), max(1, layers - 2))
