"""Maps of words by Grad-CAM and attention: what CLIP-ES, TagCLIP's second step and CaR share. Pure functions.

Source: CLIP-ES (Lin et al., CVPR 2023), sections 3.1 to 3.3, and its released code.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ovsslib.clip.backbone import Backbone
from ovsslib.clip.gradients import softmax_gradcam
from ovsslib.clip.memory import check_free, memory_errors
from ovsslib.stages.affinity import box_mask, mean_attention, transition_matrix

CLIPES_EPS = 1e-7
"""What CLIP-ES adds to the range of a map before it divides by it; a peak then has 0.9999999."""


@dataclass(frozen=True)
class PictureReading:
    """What one pass through the trunk gives for the maps of any words.

    Attributes:
        tokens: (1, 1 + P, width) input of the last block. grid: (h, w) patches, P = h w.
        attention: (P, P) float32 mean attention of some blocks, class token cut off.
        affinity: (P, P) float32, its symmetric, nearly doubly stochastic square.
    """

    tokens: Tensor
    grid: tuple[int, int]
    attention: Tensor
    affinity: Tensor


@dataclass(frozen=True)
class WordMaps:
    """Maps of K words on the grid of patches, float32.

    Attributes:
        probabilities: (K + B,) of the words and those that compete with them.
        activations: (K, h, w) Grad-CAM scaled to [0, 1].
        boxes: (K, h, w) bool, boxes around the peaks.
        refined: (K, h, w) spread along the affinity, within the boxes; not scaled.
        maps: (K, h, w) the same scaled to [0, 1].
        fell_back: (K,) bool, words whose activation was computed again without the words that compete.
    """

    probabilities: Tensor
    activations: Tensor
    boxes: Tensor
    refined: Tensor
    maps: Tensor
    fell_back: Tensor


def averaged_blocks(layers: int, blocks: int, leave_last_out: bool = False) -> range:
    """0-based blocks whose attention is averaged: the last `blocks`, or those without the very last."""
    return range(max(0, layers - blocks), layers - leave_last_out)


def read_whole_picture(backbone: Backbone, pixels: Tensor, blocks: Iterable[int]) -> PictureReading:
    """One pass of pixels (1, 3, H, W) through the trunk; the positional table as CLIP-ES has it.

    Raises MemoryBudgetError for a picture whose attention does not fit.
    """
    count = (pixels.shape[-2] // backbone.patch_size) * (pixels.shape[-1] // backbone.patch_size)
    check_free(
        4 * 6 * count * count, backbone.device, f"affinities between {count} patches",
        "give the stage a smaller short_side",
    )  # fmt: skip
    blocks = list(blocks)
    with torch.no_grad(), memory_errors():
        trunk = backbone.trunk(pixels, taps=blocks, positions="bilinear-half-always")
        attention = mean_attention([trunk.taps[index] for index in blocks], backbone.scale)[0]
        return PictureReading(trunk.tokens, trunk.grid, attention, transition_matrix(attention))


def stretched(maps: Tensor, eps: float) -> Tensor:
    """Maps (K, P) -> (x - min) / (eps + max(x - min)) of each."""
    low = maps - maps.amin(dim=1, keepdim=True)
    return low / (eps + low.amax(dim=1, keepdim=True))


def boxes_of(maps: Tensor, threshold: float, lower: bool = False) -> Tensor:
    """(K, h, w) bool: boxes around the peaks of maps (K, h, w) in [0, 1] (`affinity.box_mask`).

    `lower`: where a map has no cell above the threshold, it falls by 0.1 until one has, or it is gone (CaR).
    """
    masks = []
    for values in maps.cpu().numpy():
        level = threshold
        while lower and level > 0 and not _any_above(values, level):
            level -= 0.1
        masks.append(box_mask(values, level))
    shape = (0, *maps.shape[1:])
    boxes = np.stack(masks) if masks else np.zeros(shape, dtype=bool)
    return torch.from_numpy(boxes).to(maps.device)


def _any_above(values: np.ndarray, level: float) -> bool:
    levels = (255 * values).astype(np.uint8)
    return bool((levels > int(level * levels.max())).any())


def word_maps(
    backbone: Backbone,
    reading: PictureReading,
    words: Tensor,
    competing: Tensor,
    *,
    box_threshold: float,
    logit_scale: float | None = None,
    eps: float = CLIPES_EPS,
    fall_back: bool = False,
) -> WordMaps:
    """Maps of words that compete with each other and with further words.

    Args:
        reading: of the picture.
        words: (K, D) unit rows. competing: (B, D) unit rows of background words.
        box_threshold: share of a map's peak above which a cell opens a box.
        logit_scale: of the softmax; None takes the tower's own.
        eps: what is added to the range of a map before dividing by it.
        fall_back: CaR's: a map that is zero everywhere is computed again without the competing words, and a
            threshold that no cell passes falls.
    """
    count, grid = len(words), reading.grid
    rows = torch.cat([words, competing.to(words)])
    probabilities, raw = softmax_gradcam(backbone, reading.tokens, rows, count, logit_scale)
    empty = (raw <= 0).all(dim=1)
    fell_back = empty if fall_back else torch.zeros_like(empty)
    if fell_back.any():
        _, lone_maps = softmax_gradcam(backbone, reading.tokens, words, count, logit_scale)
        raw = torch.where(fell_back[:, None], lone_maps, raw)
    # Twice: once for each layer, once behind the mean over the one layer there is.
    cams = stretched(stretched(raw, eps), eps)
    boxes = boxes_of(cams.unflatten(1, grid), box_threshold, lower=fall_back)
    peaks = cams * boxes.flatten(1)
    refined = peaks @ reading.affinity.T
    parts = (cams, boxes.flatten(1), refined, stretched(refined, eps))
    activations, boxed, spread, maps = (part.unflatten(1, grid) for part in parts)
    return WordMaps(probabilities, activations, boxed, spread, maps, fell_back)
