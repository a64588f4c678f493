"""The stage `pamr`: pixel-adaptive refinement of stitched logits; its arithmetic is in `pixel_adaptive.py`."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ovsslib.recipe import stage
from ovsslib.stages.contexts import ImageContext
from ovsslib.stages.pixel_adaptive import Refinement, check_pamr, pamr


@stage(
    "pamr", point="refine", summary="neighbouring pixels of like colour share their logits (PAMR)"
)
@dataclass(frozen=True)
class PAMR:
    """Settings of PAMR; the defaults are those of SCLIP, NACLIP, and ITACLIP.

    The original weakly supervised setting is 10 iterations with dilations (1, 2, 4, 8, 12, 24).
    """

    version: ClassVar[int] = 1
    iterations: int = 10
    dilations: tuple[int, ...] = (8, 16)

    def __post_init__(self) -> None:
        check_pamr(self.iterations, self.dilations)

    def inert(self, recipe: object) -> str | None:
        """No iteration changes nothing."""
        return "iterations is 0" if self.iterations == 0 else None

    def on_logits(self, logits: Tensor, context: ImageContext) -> Tensor:
        """(B, Q, H, W) stitched logits -> refined logits; `context.pixels` is (B, 3, H, W)
        normalised.
        """
        return pamr(context.pixels, logits, self.iterations, self.dilations)

    def on_queries(self, logits: Tensor, context: ImageContext, kept: dict[Any, Any]) -> Tensor:
        """(q, H, W) stitched logits of some queries -> the same as `on_logits` gives them."""
        if self not in kept:
            kept[self] = Refinement(context.pixels[0], self.iterations, self.dilations)
        return kept[self](logits)
