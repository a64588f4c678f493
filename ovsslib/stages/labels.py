"""From logits to a label map: softmax over queries, maximum over synonyms, thresholds, closing.

The order is the released code's (protocol of SCLIP and ITACLIP): scale, softmax over all queries, maximum per class,
area threshold, argmax, probability threshold, closing.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import scipy  # its parts load when first used
import torch
from torch import Tensor

from ovsslib.errors import RecipeError
from ovsslib.recipe import stage
from ovsslib.text.features import merge_queries


@stage("labels", point="labels", order=0, summary="scores to labels: synonyms, thresholds, closing")
@dataclass(frozen=True)
class LabelSettings:
    """Settings of the last step.

    Attributes:
        logit_scale: factor of the cosines before the softmax.
        merge: "probability" takes the softmax over all queries, then the maximum over a class's synonyms
            (released); "logit" takes the maximum first, then the softmax over classes (the thesis author's code).
        probability_threshold: pixels whose best class score is below it go to the background; needs one.
        area_threshold: a foreground class is kept if its area is above this share of the foreground; 0 is off.
        closing: side in pixels of ITACLIP's undocumented closing of the label map; 0 is off.
        closing_by: "label" closes the label numbers as released (gaps go to the larger number, an accident of the
            class order); "class" closes every class by its own mask and gives gaps to classes by their area.
        synonyms: whose queries are merged into one class. "every": each query counts for its own class. "first": as
            the released CorrCLIP, Trident and LPOSS do, which take it that class 0 alone has synonyms: the first
            Q - C + 1 queries are class 0's, the others one class each. Where another class has synonyms, theirs then
            count for wrong classes; use it for as-published runs only.
        background_offset: added to the cosines of the background's queries, in [-1, 1]: above 0 the background takes
            more; 0 is off. Needs a background class.
    """

    version: ClassVar[int] = 1
    logit_scale: float = 40.0
    merge: Literal["probability", "logit"] = "probability"
    probability_threshold: float = 0.0
    area_threshold: float = 0.0
    closing: int = 0
    closing_by: Literal["label", "class"] = "label"
    synonyms: Literal["every", "first"] = "every"
    background_offset: float = 0.0

    def __post_init__(self):
        if self.logit_scale <= 0:
            raise RecipeError(f"labels.logit_scale={self.logit_scale}: must be above 0")
        for name in ("probability_threshold", "area_threshold"):
            if not 0 <= getattr(self, name) < 1:
                raise RecipeError(f"labels.{name}={getattr(self, name)}: must lie in [0, 1)")
        if not -1 <= self.background_offset <= 1:
            raise RecipeError(
                f"labels.background_offset={self.background_offset}: must lie in [-1, 1]"
            )
        if self.closing < 0 or self.closing % 2 == 0 and self.closing:
            raise RecipeError(f"labels.closing={self.closing}: use an odd number of pixels, or 0")

    def inert(self, recipe) -> dict[str, str]:
        """Fields that were changed and cannot move a label here, each with the reason."""
        reasons = {}
        compared = recipe.has("reads_probabilities") or self.probability_threshold > 0
        if self.merge == "logit" and recipe.has("merges_synonyms"):
            reasons["merge"] = (
                "another stage merges synonyms by itself (a hierarchy, a rule without softmax)"
            )
        elif self.merge == "logit" and not compared:
            reasons["merge"] = "either way the best query wins, and no threshold or CRF follows"
        if self.closing_by == "class" and not self.closing:
            reasons["closing_by"] = "closing is 0"
        if self.synonyms == "first" and recipe.has("merges_synonyms"):
            reasons["synonyms"] = (
                "another stage merges synonyms by itself (a hierarchy, a rule without softmax)"
            )
        return reasons

    def owners(self, query_class: Tensor, classes: int) -> Tensor:
        """Class (Q,) long that each query counts for, given its own class (Q,) and the number of classes C."""
        if self.synonyms == "every":
            return query_class
        surplus = max(len(query_class) - classes, 0)
        return (torch.arange(len(query_class), device=query_class.device) - surplus).clamp_min(0)

    def softmax_scores(self, scaled: Tensor, query_class: Tensor, classes: int) -> Tensor:
        """Scores (C, ...) in [0, 1] of scaled logits (Q, ...); with synonyms they need not sum to 1.

        Args:
            scaled: logits times `logit_scale` (and over the temperature, if calibrated).
            query_class: (Q,) long, class of each query.
            classes: C.
        """
        query_class = self.owners(query_class, classes)
        if self.merge == "logit":
            return merge_queries(scaled, query_class, classes).softmax(dim=0)
        return merge_queries(scaled.softmax(dim=0), query_class, classes)

    def labels(
        self, scores: Tensor, background: int | None, threshold: float | None = None
    ) -> Tensor:
        """Label map (H, W) int32 of scores (C, H, W), before the closing.

        `threshold` takes the place of `probability_threshold` where a stage computes one for the picture.

        Raises RecipeError for a threshold without a background class.
        """
        self.check_background(background)
        least = self.probability_threshold if threshold is None else threshold
        if background is None and least:
            raise RecipeError(
                'a probability threshold needs a background class: pass background="auto" or a list of words'
            )
        if self.area_threshold:
            assert background is not None  # check_background
            scores = drop_small_classes(scores, self.area_threshold, background)
        best, labels = scores.max(dim=0)
        if least and background is not None:
            labels = labels.masked_fill(best < least, background)
        return labels.to(torch.int32)

    @property
    def capabilities(self) -> frozenset[str]:
        """A rule that falls back to the background class, or moves its logits, needs one."""
        rules = (self.probability_threshold, self.area_threshold, self.background_offset)
        return frozenset({"needs_background"} if any(rules) else ())

    def check_background(self, background: int | None) -> None:
        """Raise RecipeError if a threshold is set and the words have no background to fall back to."""
        if background is None and self.capabilities:
            raise RecipeError(
                f"labels.probability_threshold={self.probability_threshold}, labels.area_threshold="
                f"{self.area_threshold} and labels.background_offset={self.background_offset} need a background "
                'class: pass background="auto" or a list of words, or set them to 0'
            )

    def offset(self, logits: Tensor, query_class: Tensor, background: int | None) -> Tensor:
        """Logits (Q [+ G], ...) with `background_offset` added to the background's queries."""
        if not self.background_offset or background is None:
            return logits
        added = torch.zeros(len(logits), device=logits.device)
        added[: len(query_class)][query_class.to(logits.device) == background] = (
            self.background_offset
        )
        return logits + added.view(-1, *[1] * (logits.ndim - 1))

    def close(self, labels: np.ndarray) -> np.ndarray:
        """Morphological closing of a label map (H, W), if it is on."""
        if not self.closing:
            return labels
        if self.closing_by == "label":
            return scipy.ndimage.grey_closing(
                labels, size=(self.closing, self.closing), mode="nearest"
            )
        return close_by_class(labels, self.closing)


def drop_small_classes(scores: Tensor, share: float, background: int) -> Tensor:
    """Scores of foreground classes times 0 unless their argmax area exceeds `share` of the foreground's."""
    area = torch.bincount(scores.argmax(dim=0).flatten(), minlength=len(scores))
    foreground = area.sum() - area[background]
    keep = area > share * foreground
    keep[background] = True
    return scores * keep[:, None, None].to(scores.dtype)


def close_by_class(labels: np.ndarray, size: int) -> np.ndarray:
    """Close each class's own mask; pixels claimed anew go to the claiming class with the largest area."""
    out = labels.copy()
    names, areas = np.unique(labels, return_counts=True)
    window = np.ones((size, size), dtype=bool)
    for name in names[np.argsort(areas, kind="stable")]:
        mask = labels == name
        padded = np.pad(mask, size, mode="edge")
        closed = scipy.ndimage.binary_closing(padded, window)[size:-size, size:-size]
        grown = closed & ~mask & _thin(labels, mask, window)
        out[grown] = name
    return out


def _thin(labels: np.ndarray, mask: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Pixels outside a mask whose own class does not survive an opening by the window: gaps, not regions."""
    thin = np.zeros_like(mask)
    for name in np.unique(labels[~mask]):
        region = labels == name
        padded = np.pad(region, window.shape[0], mode="edge")
        size = window.shape[0]
        thin |= region & ~scipy.ndimage.binary_opening(padded, window)[size:-size, size:-size]
    return thin
