"""Class scores without a softmax: the stitched maps of a method that gives shares in [0, 1] itself (FreeCP)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from ovsslib.recipe import stage
from ovsslib.stages.contexts import ImageContext
from ovsslib.text.features import merge_queries

if TYPE_CHECKING:
    from ovsslib.recipe import Recipe


@stage(
    "plain_scores",
    point="scores",
    summary="stitched maps are the class scores: no scale, no softmax",
)
@dataclass(frozen=True)
class PlainScoresSettings:
    """score_c = the largest value of class c's queries, clipped to [0, 1]; `labels.logit_scale` is not used.

    Attributes:
        background: "complement": the background's score is 1 - max over the other classes; "own": it has its own
            queries' score, as every class. Without a background class both are the same.
    """

    version: ClassVar[int] = 1
    capabilities: ClassVar[frozenset[str]] = frozenset({"merges_synonyms", "per_pixel"})

    background: Literal["complement", "own"] = "complement"

    def inert(self, recipe: "Recipe") -> str | None:
        """Without the complement the best query wins as it does behind a softmax."""
        compared = recipe.has("reads_probabilities") or recipe["labels"].probability_threshold > 0
        if self.background == "own" and not compared:
            return "a softmax keeps the order of the classes, and no threshold or CRF follows"
        return None

    def class_scores(self, logits: Tensor, context: ImageContext) -> Tensor:
        """Stitched maps (Q, H, W) -> class scores (C, H, W)."""
        vocabulary = context.text.vocabulary
        scores = merge_queries(logits, context.text.query_class, len(vocabulary)).clamp(0, 1)
        index = vocabulary.background
        if self.background == "complement" and index is not None and len(scores) > 1:
            word_scores = torch.cat([scores[:index], scores[index + 1 :]])
            scores = scores.clone()
            scores[index] = 1 - word_scores.amax(dim=0)
        return scores
