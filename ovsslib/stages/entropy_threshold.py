"""CDAM's background threshold from the entropies of the patches (Kang, Kim, Chun, ICLR 2025)."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ovsslib.errors import RecipeError
from ovsslib.recipe import Recipe, stage
from ovsslib.stages.contexts import ImageContext


@stage(
    "entropy_threshold",
    point="labels",
    order=20,
    summary="probability threshold of the background from the patches' entropies (CDAM)",
)
@dataclass(frozen=True)
class EntropyThresholdSettings:
    """Takes the place of `labels.probability_threshold`: base * factor / ((min H + max H) / 2), H
    in bits.

    Attributes:
        base, factor: published 0.5 and 2.5.
        logit_scale: of the patches' cosines before the softmax whose entropy H is (published: 50).
        windows: which windows' patches give the smallest and the largest entropy: "last", as
            released (each window overwrites the threshold of the one before), or "all".
        clip: keep the threshold at most 1. Released: not, so that a threshold above 1, which few
            words or decided pictures give, makes everything background.
    """

    version: ClassVar[int] = 1
    capabilities: ClassVar[frozenset[str]] = frozenset({"reads_probabilities", "needs_background"})
    base: float = 0.5
    factor: float = 2.5
    logit_scale: float = 50.0
    windows: Literal["last", "all"] = "last"
    clip: bool = False

    def __post_init__(self):
        for name in ("base", "factor", "logit_scale"):
            if getattr(self, name) <= 0:
                raise RecipeError(
                    f"entropy_threshold.{name}={getattr(self, name)}: must be above 0"
                )

    def refuse(self, recipe: Recipe) -> str | None:
        """Why these settings cannot work with the rest of a recipe."""
        if recipe["labels"].probability_threshold:
            return (
                "it takes the place of labels.probability_threshold="
                f"{recipe['labels'].probability_threshold}; set that to 0"
            )
        if recipe.stages_with("class_scores"):
            return "it is a threshold of probabilities, and another stage gives scores of its own"
        return None

    def threshold(self, scores: Tensor, context: ImageContext) -> float:
        """Threshold for class scores (C, H, W) from `context.window_logits()` (N, Q, h, w), cosines
        on the patch grids.

        Raises RecipeError if the words have no background to fall back to.
        """
        if context.text.vocabulary.background is None:
            raise RecipeError(
                'entropy_threshold needs a background class: pass background="auto" or a list of '
                "words, or turn the stage off"
            )
        assert context.window_logits is not None  # the flow keeps them
        windows = context.window_logits()[:, : len(context.text.query_class)]
        if self.windows == "last":
            windows = windows[-1:]
        value = entropy_threshold(windows, self.base, self.factor, self.logit_scale)
        return min(value, 1.0) if self.clip else value


def entropy_threshold(
    cosines: Tensor, base: float = 0.5, factor: float = 2.5, logit_scale: float = 50.0
) -> float:
    """base * factor over the mean of the smallest and the largest entropy (bits) of cosines (N, Q,
    h, w).

    Infinite where every patch is fully decided. A probability of 0 adds nothing to its entropy (the
    release's log2 gives NaN there in half precision).
    """
    p = (logit_scale * cosines.float()).softmax(dim=1)
    entropy = -torch.special.xlogy(p, p).sum(dim=1) / math.log(2)
    middle = (float(entropy.min()) + float(entropy.max())) / 2
    return base * factor / middle if middle > 0 else math.inf
