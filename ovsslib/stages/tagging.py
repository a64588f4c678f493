"""Which words are in a picture: TagCLIP's three steps. Pure functions.

Source: Lin et al., "TagCLIP", AAAI 2024, and its released code. Patches are classified by the layer before the last
(the last block's tokens see themselves only), attention spreads the scores, and a second look at a crop settles every
candidate.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ovsslib.clip.backbone import Backbone
from ovsslib.clip.memory import check_free, memory_errors
from ovsslib.stages.affinity import box_mask, mean_attention

SELF_ONLY = -100.0  # added to the scores between different tokens of the last block
UNSEEN = -1000.0  # added to the scores of what a second look must not see


@dataclass(frozen=True)
class PatchReading:
    """One pass over a picture.

    Attributes:
        features: (P, D) float32 patches in the joint space, last block with self-attention only.
        grid: (h, w), P = h w.
        attention: (P, P) float32 mean attention of the chosen blocks where enough blocks agree, else 0.
    """

    features: Tensor
    grid: tuple[int, int]
    attention: Tensor


@dataclass(frozen=True)
class Tagged:
    """Scores of C words in a picture with Q = C + B text rows.

    Attributes:
        coarse: (P, Q) softmax of each patch. first: (P, Q) spread along attention.
        refined: (P, Q) spread from within boxes around each word's peaks.
        before: (C,) largest refined score of each word. scores: (C,) after the second look.
        kept: (C,) bool, words that are in the picture.
        masks: per candidate that was looked at, its mask on the crop's grid (N,) bool.
        class_tokens: per such candidate its crop's class token (D,), not normalised.
    """

    coarse: Tensor
    first: Tensor
    refined: Tensor
    before: Tensor
    scores: Tensor
    kept: Tensor
    masks: list[Tensor]
    class_tokens: list[Tensor]


def read_patches(
    backbone: Backbone, pixels: Tensor, first_block: int, last_block: int, votes: int = 4
) -> PatchReading:
    """One pass over pixels (1, 3, H, W).

    Args:
        first_block, last_block: 1-based blocks whose attention is averaged, both included.
        votes: a patch hears another only where in so many blocks their attention is above the block's mean.

    Raises MemoryBudgetError for a picture whose attention does not fit.
    """
    patch, device = backbone.patch_size, backbone.device
    count = (pixels.shape[-2] // patch) * (pixels.shape[-1] // patch)
    check_free(
        4 * 6 * count * count, device, f"attention between {count} patches",
        "give the stage a smaller short_side",
    )  # fmt: skip
    with torch.no_grad(), memory_errors():
        trunk = backbone.trunk(pixels, taps=range(backbone.layers), positions="bilinear-half")
        tokens = trunk.tokens.shape[1]
        score_mask = (1 - torch.eye(tokens, device=device)) * SELF_ONLY
        features = backbone.head(backbone.plain_last_block(trunk.tokens, score_mask))[0, 1:]
        attention = torch.zeros(tokens - 1, tokens - 1, device=device)
        agree = torch.zeros(tokens - 1, tokens - 1, dtype=torch.int16, device=device)
        for block in range(1, backbone.layers + 1):
            block_attention = mean_attention([trunk.taps[block - 1]], backbone.scale)[0]
            agree += block_attention > block_attention.mean()
            if first_block <= block <= last_block:
                attention += block_attention
        attention *= (agree >= votes) / (last_block - first_block + 1)
    return PatchReading(features, trunk.grid, attention)


def word_probabilities(features: Tensor, rows: Tensor, logit_scale: float) -> Tensor:
    """Features (N, D) and unit rows (Q, D) -> softmax over rows of logit_scale times their cosines (N, Q)."""
    return (logit_scale * (F.normalize(features, dim=-1) @ rows.T)).softmax(dim=-1)


def box_refine(coarse: Tensor, first: Tensor, attention: Tensor, grid: tuple[int, int]) -> Tensor:
    """Scores (P, Q) spread again, each word's from within boxes around the peaks of its first refinement.

    For every row c with a positive score: m = stretched first_c; boxes where m is above its mean (`box_mask`);
    refined_c = (attention, columns inside the boxes only) coarse_c.
    """
    refined = first.clone()
    for word in range(first.shape[1]):
        values = first[:, word]
        if values.max() <= 0:
            continue
        low = values - values.min()
        if low.max() <= 0:  # every patch alike: no peak, and no box
            refined[:, word] = 0
            continue
        peaks = (low / low.max()).cpu().numpy()
        mask = torch.from_numpy(box_mask(peaks.reshape(grid), float(peaks.mean())).ravel())
        refined[:, word] = attention @ (coarse[:, word] * mask.to(coarse))
    return refined


def bounding_box(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    """(top, bottom, left, right) of the true cells of a mask (h, w), ends exclusive; None where it is empty.

    As released a box that touches the last row or column loses it.
    """
    rows, columns = np.nonzero(mask.any(axis=1))[0], np.nonzero(mask.any(axis=0))[0]
    if not len(rows):
        return None
    height, width = mask.shape
    top, bottom = int(rows[0]), min(int(rows[-1]) + 1, height - 1)
    left, right = int(columns[0]), min(int(columns[-1]) + 1, width - 1)
    return None if top >= bottom or left >= right else (top, bottom, left, right)


@torch.no_grad()
def second_look(
    backbone: Backbone, pixels: Tensor, mask: np.ndarray, box: tuple[int, int, int, int]
) -> tuple[Tensor, Tensor]:
    """Class token of a crop that sees only the patches of a mask.

    Args:
        pixels: (1, 3, H, W) of the whole picture. mask: (h, w) bool on its grid. box: of the mask, in cells.

    Returns:
        (D,) class token in the joint space, not normalised, and the mask (N,) bool on the crop's grid.
    """
    top, bottom, left, right = box
    patch, grid, device = backbone.patch_size, backbone.base_grid, backbone.device
    crop = pixels[..., top * patch : bottom * patch, left * patch : right * patch]
    crop = F.interpolate(crop.float(), size=backbone.image_size, mode="bilinear")
    part = torch.from_numpy(mask[top:bottom, left:right]).float()[None, None]
    visible = F.interpolate(part, size=grid, mode="nearest").flatten() > 0
    count = 1 + grid[0] * grid[1]
    score_mask = torch.zeros(count, count, device=device)
    score_mask[0, 1:][~visible.to(device)] = UNSEEN  # only the class token is kept from looking
    token = backbone.encode_image(crop, positions="bilinear-half", score_mask=score_mask)[0]
    return token, visible


def tag(
    backbone: Backbone,
    pixels: Tensor,
    reading: PatchReading,
    rows: Tensor,
    words: int,
    share: float,
    logit_scale: float,
) -> Tagged:
    """Scores of the words in a picture, and which of them are there.

    Args:
        pixels: (1, 3, H, W). reading: of it.
        rows: (Q, D) unit rows: the words first, then background words that only compete.
        words: C. share: a, where between the least and the largest score a word counts.
        logit_scale: of the softmax over rows.
    """
    rows = rows.to(reading.features)
    coarse = word_probabilities(reading.features, rows, logit_scale)
    first = reading.attention @ coarse
    refined = box_refine(coarse, first, reading.attention, reading.grid)
    before = refined[:, :words].amax(dim=0)
    level = refined.min() + share * (refined.max() - refined.min())
    scores, masks, tokens = before.clone(), [], []
    for word in torch.nonzero(before > level)[:, 0].tolist():
        values = refined[:, word].cpu().numpy()
        span = values.max() - values.min()
        mask = (values - values.min()) / (span if span > 0 else 1) > 0.5
        box = bounding_box(mask.reshape(reading.grid))
        if box is None:  # the released routine returns here: later candidates are not looked at
            break
        token, visible = second_look(backbone, pixels, mask.reshape(reading.grid), box)
        probability = word_probabilities(token[None], rows, logit_scale)[0, word]
        scores[word] = 0.5 * scores[word] + 0.5 * probability
        masks.append(visible)
        tokens.append(token)
    kept = scores > scores.min() + share * (scores.max() - scores.min())
    if not kept.any():
        kept[scores.argmax()] = True
    return Tagged(coarse, first, refined, before, scores, kept, masks, tokens)
