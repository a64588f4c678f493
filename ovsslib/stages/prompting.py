"""Labels refined by a segmenter that answers prompts: pure functions of Trident's last step.

Source: Shi, Dong, Xu, "Harnessing Vision Foundation Models for High-Performance, Training-Free Open Vocabulary
Segmentation" (Trident), ICCV 2025, and the released code's arithmetic.

The *frame* is the square that the segmenter looks at, 1024 pixels a side; the picture fills its top left part.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

FRAME, LOW = 1024, 256  # sides of the frame and of mask prompts
PROMPTS_AT_ONCE = 16
PROMPT = 0.005  # factor of the probabilities in a mask prompt, as released

Predict = Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]
"""Function (points (n, 2) x y, boxes (n, 4) left top right bottom, mask prompt (256, 256) or None), all in the frame
-> logits (n, s, s) of the frame, predicted IoUs (n,)."""


@dataclass(frozen=True)
class Regions:
    """Connected regions of one class in a label map, the n that are large enough.

    Attributes:
        numbers: (H, W) int32 number of every pixel's region, of all regions. chosen: (n,) the numbers of those.
        points: (n, 2) x, y of their surest pixels. boxes: (n, 4) left, top, right, bottom, the indices of their
            outermost pixels. areas: (n,) pixels.
    """

    numbers: np.ndarray
    chosen: np.ndarray
    points: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray


def regions_of_class(mask: np.ndarray, sureness: np.ndarray, least: int) -> Regions:
    """The 8-connected regions of a mask (H, W) bool that have at least `least` pixels.

    Args:
        sureness: (H, W) float; a region's point is where it is largest, the first of equals.
    """
    _, numbers, statistics, _ = cv2.connectedComponentsWithStats(
        mask.astype(np.uint8), connectivity=8
    )
    areas = statistics[:, cv2.CC_STAT_AREA]
    chosen = np.flatnonzero(areas >= least)
    chosen = chosen[chosen > 0]
    left, top, width, height = statistics[chosen, :4].T
    boxes = np.stack([left, top, left + width - 1, top + height - 1], axis=1)
    order = np.argsort(-sureness, axis=None, kind="stable")
    first = np.full(len(statistics), -1)
    ranked = numbers.ravel()[order]
    ids, places = np.unique(ranked, return_index=True)
    first[ids] = order[places]
    rows, columns = np.divmod(first[chosen], mask.shape[1])
    points = np.stack([columns, rows], axis=1)
    return Regions(
        numbers, chosen, points.astype(np.float32), boxes.astype(np.float32), areas[chosen]
    )


def fitted(size: tuple[int, int], side: int = FRAME, square: bool = False) -> tuple[int, int]:
    """(rows, columns) of a picture of (H, W) pixels in a square: its longer side fits, or, `square`, both do."""
    if square:
        return side, side
    scale = side / max(size)
    return int(size[0] * scale + 0.5), int(size[1] * scale + 0.5)


def mask_prompt(probability: Tensor, threshold: float, square: bool = False) -> Tensor:
    """(H, W) probabilities of a class -> (256, 256) mask prompt: 0.005 p where p is above the threshold, else 0."""
    height, width = probability.shape
    size = fitted((height, width), LOW, square)
    small = F.interpolate(probability[None, None], size=size, mode="bilinear")[0, 0]
    padded = F.pad(small, (0, LOW - size[1], 0, LOW - size[0]))
    return torch.where(padded > threshold, PROMPT * padded, 0)


def full_size(logits: Tensor, size: tuple[int, int], square: bool = False) -> Tensor:
    """Logits (n, s, s) of the frame -> (n, H, W) of the picture, bilinear over the frame's own size."""
    wide = F.interpolate(logits[:, None], size=(FRAME, FRAME), mode="bilinear")
    rows, columns = fitted(size, FRAME, square)
    return F.interpolate(wide[:, :, :rows, :columns], size=size, mode="bilinear")[:, 0]


def half_size(labels: np.ndarray, scores: Tensor, threshold: float) -> tuple[np.ndarray, Tensor]:
    """Labels (H // 2, W // 2) by nearest neighbour, -1 where the best score is below `threshold`; scores bilinear."""
    size = tuple(max(1, side // 2) for side in labels.shape)
    nearest = torch.from_numpy(labels)[None, None].double()
    small = F.interpolate(nearest, size=size, mode="nearest")[0, 0].long()
    half = F.interpolate(scores[None], size=size, mode="bilinear")[0]
    if threshold > 0:
        small = small.masked_fill(half.amax(dim=0).cpu() < threshold, -1)
    return small.numpy(), half


def refined_by_prompts(
    labels: np.ndarray,
    scores: Tensor,
    predict: Predict,
    least_score: float = 0.2,
    least_area: int = 225,
    least_iou: float = 0.8,
    square: bool = False,
) -> tuple[np.ndarray, Tensor]:
    """Labels and class scores of a picture after every region of every class has been asked for (Trident).

    At half the size, each connected region of a class prompts the segmenter by its surest pixel, its box, and the
    class's scores. Answers that the segmenter itself trusts carry the scores to new borders; a pixel that no answer
    covers keeps its label. Regions that failed get their scores back; the released code means to restore their labels
    too, but changes none, so other classes' answers win there.

    Args:
        labels: (H, W) int32. scores: (C, H, W) float32.
        predict: the segmenter, with this picture before it.
        least_score: of a pixel's best class; below it, a pixel belongs to no region.
        least_area: of a region, in pixels of half the size.
        least_iou: predicted by the segmenter, above which an answer is taken.
        square: whether both sides of the picture fill the frame (SAM 2), or the longer one.

    Returns:
        labels (H, W) int32, scores (C, H, W). Both as they were if no answer is taken.
    """
    size = tuple(labels.shape)
    small, half = half_size(labels, scores, least_score)
    rows, columns = fitted(tuple(small.shape), FRAME, square)
    scale = np.array([columns / small.shape[1], rows / small.shape[0]], np.float32)
    new_scores, count = torch.zeros_like(scores), 0
    failed = np.zeros(small.shape, bool)
    for index in range(len(scores)):
        if float(half[index].max()) < least_score:
            continue
        regions = regions_of_class(small == index, half[index].cpu().numpy(), least_area)
        prompt = mask_prompt(half[index].float().cpu(), least_score, square)
        for start in range(0, len(regions.chosen), PROMPTS_AT_ONCE):
            part = slice(start, start + PROMPTS_AT_ONCE)
            points = torch.from_numpy(regions.points[part] * scale)
            boxes = torch.from_numpy(regions.boxes[part] * np.tile(scale, 2))
            logits, iou = predict(points, boxes, prompt)
            kept = iou > least_iou
            failed |= np.isin(regions.numbers, regions.chosen[part][~kept.numpy()])
            for mask_logits in logits[kept]:  # one at a time: each is as large as the picture
                answer = full_size(mask_logits[None], size, square)[0].to(scores)
                answer = answer.sigmoid() * scores[index] * (answer > 0)
                new_scores[index] = torch.maximum(new_scores[index], answer)
                count += 1
    if not count:
        return labels, scores
    covered = new_scores.sum(dim=0) > 0
    out = torch.where(
        covered.cpu(), new_scores.argmax(dim=0).cpu(), torch.from_numpy(labels).long()
    )
    wide = torch.from_numpy(failed)[None, None].float()
    failed_pixels = F.interpolate(wide, size=size, mode="nearest")[0, 0].bool().to(scores.device)
    return out.numpy().astype(np.int32), torch.where(failed_pixels, scores, new_scores)
