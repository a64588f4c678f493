"""Class scores of maps in [0, 1]: the background is what the words leave, and a CRF may follow.

Source: CLIP-ES (CVPR 2023) and CaR (CVPR 2024), released code. Maps do not sum to 1 over words and are no logits, so
no softmax is taken.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from ovsslib.errors import RecipeError
from ovsslib.recipe import stage
from ovsslib.stages.contexts import ImageContext
from ovsslib.stages.fully_connected import PARAMETER_SETS, densecrf
from ovsslib.stages.whole_picture import stuff_classes
from ovsslib.text.features import merge_queries

if TYPE_CHECKING:
    from ovsslib.recipe import Recipe

WRAPPED_MEAN = (104.008, 116.669, 122.675)
"""Channel means, BGR, that the released CRF subtracts from the picture before it casts the result to 8 bits."""


def crf_image(image: np.ndarray, kind: str = "wrapped") -> np.ndarray:
    """The picture (H, W, 3) uint8 RGB as a released CRF sees it.

    "wrapped": BGR less its mean, cut towards zero and taken modulo 256 (-3.7 becomes 253): a bug of CLIP-ES and CaR
    with an effect on the colour kernel. "rgb": the picture itself.
    """
    if kind == "rgb":
        return image
    less = image[..., ::-1].astype(np.float64) - np.array(WRAPPED_MEAN)
    return less.astype(np.int64).astype(np.uint8)


def with_background(maps: Tensor, power: float = 1.0) -> Tensor:
    """Maps (K, H, W) -> (1 + K, H, W): (1 - max over maps) ** power in front of them, in the maps' precision."""
    if not len(maps):
        return maps.new_ones(1, *maps.shape[1:])
    return torch.cat([(1 - maps.amax(dim=0, keepdim=True)) ** power, maps])


@stage(
    "cam_scores", point="scores", summary="maps are class scores; the background is what they leave"
)
@dataclass(frozen=True)
class CamScores:
    """Settings of the scores of maps.

    Attributes:
        power: p of the background (1 - max over words) ** p; CLIP-ES reports the better of 1 and 2 on the ground truth.
        half: maps are rounded to float16 first, as CLIP-ES stores them.
        row: a vocabulary without a background class has a row of it all the same, for the CRF to give pixels to; such
            pixels go to the best word. False: none (TagCLIP on COCO-Stuff).
        passes: "one", or "things over stuff": things and stuff have their scores (and CRF) apart, stuff shows where
            things leave background (CaR on Context and ADE20K).
        stuff: names of the classes that count as stuff; empty: by the vocabulary's kinds.
        crf: parameter set of DenseCRF over the words whose map is not empty, or "" for none.
        image: what the CRF sees: "wrapped" (released, see `crf_image`) or "rgb".
    """

    version: ClassVar[int] = 1
    capabilities: ClassVar[frozenset[str]] = frozenset({"merges_synonyms"})

    power: float = 1.0
    half: bool = True
    row: bool = True
    passes: Literal["one", "things over stuff"] = "one"
    stuff: tuple[str, ...] = ()
    crf: str = ""
    image: Literal["wrapped", "rgb"] = "wrapped"

    def __post_init__(self) -> None:
        if self.power <= 0:
            raise RecipeError(f"cam_scores.power={self.power}: must be above 0")
        if self.crf and self.crf not in PARAMETER_SETS:
            raise RecipeError(
                f"cam_scores.crf={self.crf!r}; known: {', '.join(PARAMETER_SETS)}, or '' for none"
            )

    def inert(self, recipe: "Recipe") -> dict[str, str]:
        """Fields that were changed and have no part."""
        reasons = {}
        if not self.crf and self.image != "wrapped":
            reasons["image"] = "crf is off"
        if self.stuff and self.passes == "one":
            reasons["stuff"] = "there is one pass"
        return reasons

    def class_scores(self, logits: Tensor, context: ImageContext) -> Tensor:
        """Stitched maps (Q, H, W) -> class scores (C, H, W) in [0, 1]."""
        vocabulary = context.text.vocabulary
        owner = context.text.query_class.cpu()
        maps = merge_queries(logits.clamp(0, 1), owner, len(vocabulary))
        words = [c for c in range(len(vocabulary)) if c != vocabulary.background]
        scores = torch.zeros_like(maps)
        if self.passes == "one":
            self._pass(maps, words, vocabulary.background, scores, context)
            return scores
        stuff = stuff_classes(vocabulary, self.stuff)
        things = [c for c in words if c not in stuff]
        self._pass(maps, stuff, vocabulary.background, scores, context)
        thing_scores = torch.zeros_like(scores)
        row = self._pass(maps, things, None, thing_scores, context)
        shown = thing_scores.amax(dim=0) > row  # ties go to the background, which stands first
        return torch.where(shown, thing_scores, scores)

    def _pass(
        self,
        maps: Tensor,
        words: list[int],
        background: int | None,
        scores: Tensor,
        context: ImageContext,
    ) -> Tensor:
        """Write the scores of some classes, and of the background; gives the background's row (H, W)."""
        alive = [c for c in words if bool(maps[c].amax() > 0)]
        values = maps[alive].half() if self.half else maps[alive]
        rows = with_background(values, self.power).float()
        if background is None and not self.row and alive:
            rows = rows[1:]
        if self.crf and len(rows) > 1:
            picture = crf_image(context.image, self.image)
            refined = densecrf(picture, rows, self.crf, tolerance=0)
            rows = torch.from_numpy(refined).to(maps)
        row = rows[0] if len(rows) > len(alive) else torch.zeros_like(maps[0])
        if alive:
            scores[alive] = rows[len(rows) - len(alive) :]
        if background is not None:
            scores[background] = row
        return row
