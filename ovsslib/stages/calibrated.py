"""What self-calibrating methods share: patches that stick out, their repair, patches averaged by likeness.

Pure functions on one grid of patches, for SC-CLIP (Bai et al., arXiv 2411.15869), SFP (Jin et al., ICCV 2025) and
DiH-CLIP (Duan et al., ICCV 2025), as their released code computes it. B windows at a time, each by itself: no number
depends on the other windows of the batch. P patches stand row by row. Similarities are float32 whatever the precision
of the model.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

_SMALLEST = 1e-12  # distance below which two patches count as one


def local_outlier_factors(patches: Tensor, neighbours: int, standard: bool = False) -> Tensor:
    """How far each patch lies from its neighbours, compared with how far those lie from theirs: (B, P), float32.

    Args:
        patches: (B, P, D).
        neighbours: size of the neighbourhood; at most the P - 1 other patches are taken.
        standard: the textbook's factor (Breunig et al., 2000): plain distances, and the reach is at least the
            *neighbour's* own radius. False: SC-CLIP's release, with squared distances and the reach at least the
            *patch's* own radius, which makes the score the mean of r_i / r_j over the neighbours j.

    A single patch sticks out of nothing: its factor is 1, as that of patches which are all alike.
    """
    count = patches.shape[1]
    if count < 2:
        return patches.new_ones(patches.shape[:2], dtype=torch.float32)
    size = min(neighbours, count - 1)
    distance = squared_distances(patches)
    if standard:
        distance = distance.sqrt()
    near, index = distance.topk(size + 1, dim=-1, largest=False)
    near, index = near[..., 1:], index[..., 1:]  # the first is the patch itself
    radius = near[..., -1].clamp_min(_SMALLEST)
    radius_of = radius[:, None].expand(-1, count, -1).gather(2, index)
    if not standard:
        return (radius[..., None] / radius_of).mean(dim=-1).float()
    density = 1 / torch.maximum(near, radius_of).mean(dim=-1).clamp_min(_SMALLEST)
    density_of = density[:, None].expand(-1, count, -1).gather(2, index)
    return (density_of.mean(dim=-1) / density).float()


def squared_distances(patches: Tensor) -> Tensor:
    """Squared Euclidean distances (B, P, P) float64 of patches (B, P, D); 0 for patches that are all but equal.

    In float64 because `|a|^2 + |b|^2 - 2ab` cancels: a few channels of CLIP's tokens are hundreds of times as large as
    the others. The differences themselves, as released, would take (P, P, D) numbers.
    """
    x = patches.double()
    square = x.square().sum(dim=-1)
    sums = square[:, :, None] + square[:, None]
    distance = sums - 2 * (x @ x.transpose(-2, -1))
    return distance.masked_fill(distance < 1e-12 * sums, 0)


def above_quantile(scores: Tensor, share: float) -> Tensor:
    """Patches (B, P) bool whose score lies above the quantile 1 - share (linear interpolation, strictly above)."""
    return scores > torch.quantile(scores, 1 - share, dim=-1, keepdim=True)


def strongest(scores: Tensor, most: int, candidates: Tensor | None = None) -> Tensor:
    """The `most` patches (B, P) bool with the largest score, out of `candidates` (B, P) bool only, if given."""
    if candidates is not None:
        scores = scores.masked_fill(~candidates, -torch.inf)
    order = scores.sort(dim=-1, descending=True, stable=True).indices[:, :most]
    chosen = torch.zeros_like(scores, dtype=torch.bool).scatter(1, order, True)
    return chosen if candidates is None else chosen & candidates


def class_and_self_attention(q: Tensor, k: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Attention that the class token pays to each patch, and each patch to itself: two (B, P), float32.

    `q`, `k`: (B, heads, 1 + P, d) of an ordinary block, class token first. Means over the heads.
    """
    weights = ((q * scale) @ k.transpose(-2, -1)).float().softmax(dim=-1).mean(dim=1)
    return weights[:, 0, 1:], weights.diagonal(dim1=-2, dim2=-1)[:, 1:]


def filled(patches: Tensor, outliers: Tensor, grid: tuple[int, int]) -> Tensor:
    """Patches (B, P, D) with every outlier replaced by the mean of its neighbours on the grid, float32.

    The neighbours are those of the 8 around it that lie inside the (h, w) grid and are no outliers themselves. An
    outlier without any stays as it is. (SFP's release writes zeros there, of which its next step makes NaN.)
    """
    x = patches.float()
    good = (~outliers).float().unflatten(1, grid)[:, None]
    values = x.transpose(1, 2).unflatten(2, grid) * good
    count = _sum_around(good).flatten(2).transpose(1, 2)
    mean = _sum_around(values).flatten(2).transpose(1, 2) / count.clamp_min(1)
    return torch.where(outliers[..., None] & (count > 0), mean, x)


def _sum_around(values: Tensor) -> Tensor:
    """Sum (B, C, h, w) of the 8 cells around each cell; nothing lies outside the grid."""
    height, width = values.shape[-2:]
    padded = F.pad(values, (1, 1, 1, 1))
    total = torch.zeros_like(values)
    for down in range(3):
        for right in range(3):
            if (down, right) != (1, 1):
                total = total + padded[..., down : down + height, right : right + width]
    return total


def cosines(patches: Tensor, threshold: float | None = None) -> Tensor:
    """Cosines (B, P, P) float32 of patches (B, P, D); those below `threshold` count as 0."""
    unit = F.normalize(patches.float(), dim=-1)
    similarity = unit @ unit.transpose(-2, -1)
    return similarity if threshold is None else cut(similarity, threshold)


def cut(similarity: Tensor, threshold: float) -> Tensor:
    """Similarities with those below a threshold set to 0."""
    return similarity.masked_fill(similarity < threshold, 0)


def aggregated(values: Tensor, weights: Tensor) -> Tensor:
    """Each patch as the mean of all, (B, P, D) float32, by weights (B, P, P) that are divided by their row sums."""
    return (weights / (weights.sum(dim=-1, keepdim=True) + 1e-6)) @ values.float()


def guide_weights(similarity: Tensor, temperature: float) -> Tensor:
    """Attention (B, P, P) that similarities of patches make, the same for all heads.

    softmax(temperature (S - mean(S))) over the patches whose similarity is above the window's mean. A patch always
    sees itself, also in a window of equal patches, where rounding decides what lies above the mean.
    """
    scores = temperature * (similarity - similarity.mean(dim=(-2, -1), keepdim=True))
    itself = torch.eye(scores.shape[-1], dtype=torch.bool, device=scores.device)
    return scores.masked_fill((scores < 0) & ~itself, -torch.inf).softmax(dim=-1)


def head_entropy(weights: Tensor) -> Tensor:
    """Entropy (B, heads), in bits, of attention (B, heads, T, T): the sum over all rows, 1e-6 inside the logarithm."""
    weights = weights.float()
    return -(weights * (weights + 1e-6).log2()).sum(dim=(-2, -1))


def lowest_entropy(weights: Tensor, count: int) -> Tensor:
    """Heads (B, heads) bool with the `count` smallest entropies; all that tie with the last of them are taken."""
    entropy = head_entropy(weights)
    count = min(count, entropy.shape[1])
    return entropy <= entropy.sort(dim=-1).values[:, count - 1 : count]


def summed_heads(weights: Tensor, chosen: Tensor) -> Tensor:
    """Sum (B, T, T) of the chosen heads' attention (B, heads, T, T)."""
    return (weights * chosen[..., None, None].to(weights.dtype)).sum(dim=1)
