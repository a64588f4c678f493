"""SegEarth-OV: the class token's share is taken out of every patch's logits (Li et al., CVPR 2025)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ovsslib.recipe import stage
from ovsslib.stages.contexts import WindowContext

if TYPE_CHECKING:
    from ovsslib.recipe import Recipe


@stage(
    "class_token_bias",
    point="similarity",
    order=60,
    summary="add a (negative) share of the class token's logits to every patch's (SegEarth-OV)",
)
@dataclass(frozen=True)
class ClassTokenBiasSettings:
    """logits_iq <- cos(f_i, T_q) + weight cos(class token, T_q).

    The class token is the last block's own, as the recipe's attention leaves it, or CLIP's where the block gives
    none.

    Attributes:
        weight: lambda (released: -0.3).
    """

    version: ClassVar[int] = 1

    weight: float = -0.3

    def refuse(self, recipe: "Recipe") -> str | None:
        """Why these settings cannot work with the rest of a recipe."""
        if recipe.stages_with("picture_logits"):
            return (
                "another stage makes the picture's logits by itself, so no window has a class token"
            )
        return None

    def inert(self, recipe: "Recipe") -> str | None:
        """A share of 0 changes nothing."""
        return "weight is 0" if self.weight == 0 else None

    def on_similarity(self, logits: Tensor, context: WindowContext) -> Tensor:
        """Cosines (B, Q, h, w) of a window -> the same, shifted query by query."""
        assert context.text is not None
        token = F.normalize(context.class_token.float(), dim=-1)
        shift = torch.einsum("qd,bd->bq", context.text.float(), token)
        return logits + self.weight * shift[:, : logits.shape[1], None, None]
