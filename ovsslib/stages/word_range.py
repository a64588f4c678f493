"""Heat maps: each word's logits stretched to [0, 1], as CLIP Surgery's demo shows them."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ovsslib.recipe import stage
from ovsslib.stages.contexts import WindowContext


@stage(
    "word_range",
    point="similarity",
    order=95,
    summary="stretch every word's logits to [0, 1] over the window (heat maps)",
)
@dataclass(frozen=True)
class WordRangeSettings:
    """(L - min L) / (max L - min L) over the patches, per word; a word of equal logits gets 0 everywhere.

    The range is that of a window: for heat maps of a picture take it whole (windows.crop 0), as the recipe does.
    What wins a pixel is then the word that is nearest to its own maximum, not the likeliest one. With the stage
    `plain_scores` (background "own") the class scores are these maps.
    """

    version: ClassVar[int] = 1

    def on_similarity(self, logits: Tensor, context: WindowContext) -> Tensor:
        """Logits (B, Q + G, h, w) -> words in [0, 1]; texts of groups unchanged."""
        words, groups = logits[:, : context.queries], logits[:, context.queries :]
        return torch.cat([stretched(words), groups], dim=1)


def stretched(logits: Tensor) -> Tensor:
    """Each map of logits (..., h, w) stretched to [0, 1]; 0 where all are equal."""
    low, high = logits.amin(dim=(-2, -1), keepdim=True), logits.amax(dim=(-2, -1), keepdim=True)
    span = high - low
    return torch.where(span > 0, (logits - low) / span.where(span > 0, torch.ones_like(span)), 0)
