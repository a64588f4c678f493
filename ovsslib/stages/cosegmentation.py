"""What pictures that show a word have in common: ReCo's retrieval and co-segmentation. Pure functions.

Source: Shin, Xie, Albanie, "ReCo: Retrieve and Co-segment for Zero-shot Transfer", NeurIPS 2022, and its released code.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def retrieved(embeddings: Tensor, rows: Tensor, count: int) -> Tensor:
    """(Q, count) long: the pictures whose unit embeddings (N, D) are nearest to each unit text row (Q, D), best first.

    Ties go to the earlier picture.
    """
    similarity = rows.to(embeddings) @ embeddings.T
    return similarity.sort(dim=1, descending=True, stable=True).indices[:, :count]


def cosine_map(features: Tensor, row: Tensor) -> Tensor:
    """Cosines (B, h, w) of features (B, D, h, w) with one vector (D,)."""
    return torch.einsum("bdhw,d->bhw", F.normalize(features, dim=1), F.normalize(row, dim=0))


def text_attention(
    dense: Tensor, row: Tensor, size: tuple[int, int], scale: float = 10.0
) -> Tensor:
    """(B, h, w) in (0, 1): where dense CLIP features (B, D, h', w') resemble a text row; bilinear to `size`."""
    attention = (scale * cosine_map(dense, row)).sigmoid()
    return F.interpolate(attention[:, None], size=size, mode="bilinear")[:, 0]


def context_elimination(features: Tensor, references: Tensor) -> Tensor:
    """(B, h, w): product over context references (c, W) of 1 - sigma(cosine); each factor lies in [0.27, 0.73]."""
    product = torch.ones_like(features[:, 0])
    for reference in references:
        product = product * (1 - cosine_map(features, reference).sigmoid())
    return product


@dataclass(frozen=True)
class CoSegment:
    """What k pictures of a word have in common.

    Attributes:
        weights: (k, h, w) of their patches. places: (k,) long, the seed patch of each picture.
        seeds: (k, W) features there, not normalised. reference: (W,) unit vector of their mean.
    """

    weights: Tensor
    places: Tensor
    seeds: Tensor
    reference: Tensor


def cosegment(features: Tensor, weights: Tensor, released_slices: bool = True) -> CoSegment:
    """One seed patch in each of k pictures, and the reference that their features give.

    Patch i is scored by the mean over pictures n of its best weighted cosine with the patches of n (its own picture
    among them); a picture's seed is its best patch.

    Args:
        features: (k, W, h, w). weights: (k, h, w) of the patches that are compared with.
        released_slices: as released, the patches "of picture n" are those of pictures n to 2 n (a slice that ends too
            late). False: those of n, as the paper has it.

    One picture's patches are compared at a time, so memory stays at (hw) x (k hw) values.
    """
    count, _, height, width = features.shape
    unit = F.normalize(features, dim=1).flatten(2).transpose(1, 2)  # (k, hw, W)
    patches, weight = unit.flatten(0, 1), weights.flatten()
    places = []
    for picture in unit:
        best = ((picture @ patches.T) * weight).unflatten(1, (count, height * width)).amax(dim=2)
        if released_slices:
            best = torch.stack([best[:, n : 2 * n + 1].amax(dim=1) for n in range(count)], dim=1)
        places.append(best.mean(dim=1).argmax())
    chosen = torch.stack(places)
    seeds = features.flatten(2)[torch.arange(count, device=chosen.device), :, chosen]
    return CoSegment(weights, chosen, seeds, F.normalize(seeds.mean(dim=0), dim=0))


def reference_scores(
    features: Tensor,
    references: Tensor,
    dense: Tensor | None,
    rows: Tensor,
    size: tuple[int, int],
    scale: float = 10.0,
) -> Tensor:
    """Scores (Q, H, W): sigma of the cosine with each reference, times the text attention.

    Args:
        features: (1, W, h, w) of the picture. references: (Q, W).
        dense: (1, D, h', w') of the picture, or None for no text attention. rows: (Q, D) unit text rows.

    Both maps are enlarged apart, bilinear.
    """
    unit = F.normalize(features, dim=1)
    resemblance = torch.einsum(
        "bdhw,qd->bqhw", unit, F.normalize(references.to(unit), dim=1)
    ).sigmoid()
    scores = F.interpolate(resemblance, size=size, mode="bilinear")[0]
    if dense is None:
        return scores
    cosines = torch.einsum(
        "bdhw,qd->bqhw", F.normalize(dense, dim=1), F.normalize(rows.to(dense), dim=1)
    )
    return scores * F.interpolate((scale * cosines).sigmoid(), size=size, mode="bilinear")[0]
