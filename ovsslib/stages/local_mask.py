"""The thesis's reading of CLIPtrase: a local mask multiplied onto the attention (thesis, equation 3.9).

The thesis speaks of a learned mask from the CLIPtrase paper; that paper has none. A Gaussian over patch distance
stands in. What CLIPtrase itself does is in `clusters.py`.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ovsslib.clip.geometry import neighbourhood
from ovsslib.errors import RecipeError
from ovsslib.recipe import stage


@stage(
    "local_mask",
    point="attention",
    order=60,
    summary="favour near patches in the attention (thesis)",
)
@dataclass(frozen=True)
class LocalMaskSettings:
    """Patch columns of the attention are multiplied by exp(-d^2 / (2 std^2)), then rescaled.

    The column of the class token is kept as it is, and the patch part of each row is rescaled so that the row
    keeps its sum.

    Attributes:
        std: standard deviation of the mask in patches.
    """

    version: ClassVar[int] = 1
    std: float = 3.0

    def __post_init__(self):
        if self.std <= 0:
            raise RecipeError(f"local_mask.std={self.std}: must be above 0 patches")

    def refuse(self, recipe) -> str | None:
        """Why these settings cannot work with the rest of a recipe."""
        stages = [s for s in recipe.stages_with("on_weights") if s is not self]
        if recipe["attention"].is_identity and not stages:
            return "attention.terms='value' lets each patch see only itself, so a local mask changes nothing"
        return None

    def on_weights(self, weights: Tensor, context) -> Tensor:
        """Apply the mask to (B, heads, T, T) weights."""
        mask = neighbourhood(context.grid, self.std).to(weights.device).clone()
        mask[0, 1:] = 1.0
        # in float32: far patches times a small mask are below what half precision can hold
        patches = weights[..., 1:].float()
        masked = patches * mask[:, 1:]
        total = masked.sum(-1, keepdim=True).clamp_min(1e-12)
        out = weights.clone()
        out[..., 1:] = (masked * (patches.sum(-1, keepdim=True) / total)).to(weights.dtype)
        return out
