"""What a recipe computes inside one window: features after each stage, anchors, logits before and after feedback.

The figures of methods (thesis, Figures 3.2, 3.3 and 3.6) show these tensors instead of drawings of them.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ovsslib.errors import RecipeError
from ovsslib.images.pictures import Picture, read_picture
from ovsslib.segmenter import EncodedPicture, PictureInput, Segmenter
from ovsslib.stages.feedback import choose_anchors
from ovsslib.text.features import merge_queries


@dataclass(frozen=True, eq=False)
class Inside:
    """One window on its way through a recipe.

    Attributes:
        picture: (h, w, 3) uint8, the window as the model sees it.
        features: (D, rows, columns) float32 by step: "patches" as the last block gives them, then after each stage
            at "features" under the stage's name.
        before, after: labels (rows, columns) int32 of the finest grid before and after the stages at "similarity".
        anchors: (rows, columns) int32, coarse grid: label of the patches that the thesis's feedback chooses first,
            `ignore` elsewhere; None if the recipe has no feedback.
        names: words in label order.
        ignore: label of patches that are no anchors.
    """

    picture: np.ndarray
    features: dict[str, Tensor]
    before: np.ndarray
    after: np.ndarray
    anchors: np.ndarray | None
    names: tuple[str, ...]
    ignore: int = 255


def look_inside(segmenter: Segmenter, picture: Picture, words: Any, window: int = 0) -> Inside:
    """Run a recipe on one window of a picture and keep what it computes.

    Args:
        picture: path, PIL image or (H, W, 3) uint8.
        words: list of words, mapping name -> synonyms, or a Vocabulary.
        window: which window of the picture, row by row.

    Raises RecipeError for a window that is not there, or a recipe with several views of a window.
    """
    recipe = segmenter.recipe
    if segmenter.views is not None:
        raise RecipeError(
            f"recipe {recipe.name!r} mixes several views of a window; turn them off to look inside"
        )
    image = read_picture(picture)
    pixels = segmenter.prepare(image)
    grid = segmenter.windows.boxes(*pixels.shape[-2:])
    if not 0 <= window < len(grid):
        raise RecipeError(f"window={window}: the picture has {len(grid)} windows, counted from 0")
    text = segmenter.text(words)
    rows = segmenter.words(text)
    queries, crop = rows.queries, grid.crops(pixels)[window : window + 1]
    with torch.no_grad():
        encoded = EncodedPicture.of_whole(segmenter, PictureInput(crop[0]))
        kept: dict[str, Tensor] = {}
        logits, refined, coarse_grid = encoded.look_inside(rows, kept)
    before, after = (_labels(cosines[0, :queries], text) for cosines in (logits, refined))
    chosen = _anchors(recipe.get("feedback"), logits[0, :queries], coarse_grid, text)
    return Inside(
        _crop(segmenter, image, grid, window), kept, before, after, chosen, text.vocabulary.names
    )


def _labels(logits: Tensor, text: Any) -> np.ndarray:
    """(Q, h, w) logits -> (h, w) int32 class of the best query."""
    merged = merge_queries(logits - logits.amin(), text.query_class, len(text.vocabulary))
    return merged.argmax(0).cpu().numpy().astype(np.int32)


def _anchors(settings: Any, logits: Tensor, grid: tuple[int, int], text: Any) -> np.ndarray | None:
    """Labels of the anchors of the feedback's first iteration, 255 elsewhere."""
    if settings is None:
        return None
    coarse = F.adaptive_avg_pool2d(logits, grid).flatten(1).T
    confidence, query = (settings.logit_scale * coarse).softmax(-1).max(-1)
    anchors = choose_anchors(confidence, query, settings.quantile, settings.least_confidence)
    label = text.query_class.to(query.device)[query]
    return torch.where(anchors, label, 255).reshape(grid).cpu().numpy().astype(np.int32)


def _crop(segmenter: Segmenter, image: np.ndarray, grid: Any, window: int) -> np.ndarray:
    resized = segmenter.windows.resized(image)
    row, column = divmod(window, len(grid.lefts))
    top, left = grid.tops[row], grid.lefts[column]
    return resized[top : top + grid.size[0], left : left + grid.size[1]]
