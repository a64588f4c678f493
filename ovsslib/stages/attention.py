"""Attention of the last block: which similarities, how they are summed, what is kept around them.

Covers MaskCLIP (value), CLIP (qk), SCLIP (qq+kk, residual and feed-forward kept), ClearCLIP (qq, neither kept),
NACLIP (kk plus a Gaussian neighbourhood), ITACLIP's sums (its Table 2) and the thesis's joint softmax.
"""

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from ovsslib.clip.backbone import Backbone, Tap, TrunkOutput
from ovsslib.clip.geometry import neighbourhood
from ovsslib.errors import RecipeError
from ovsslib.recipe import stage

if TYPE_CHECKING:
    from ovsslib.recipe import Recipe

SIMILARITIES = ("qk", "qq", "kk", "vv")


@stage("attention", point="attention", order=0, summary="attention of the last block")
@dataclass(frozen=True)
class AttentionSettings:
    """Settings of the last block.

    Attributes:
        terms: similarities joined by "+" (of "qk", "qq", "kk", "vv"), "value" (each token sees itself only,
            MaskCLIP), or "neighbour" (NACLIP's "nonly": the neighbourhood alone, scaled by the norms of q and k).
        combine: "sum" adds the softmaxes, so rows sum to the number of terms (SCLIP); "joint" takes one softmax
            of the summed scores (thesis equation 3.2).
        gaussian_std: standard deviation in patches of NACLIP's neighbourhood added to every score matrix, or
            None for none.
        residual: keep the block's residual connection around the attention.
        feed_forward: keep the block's feed-forward network (with its own residual).
    """

    version: ClassVar[int] = 1
    terms: str = "qq+kk"
    combine: Literal["sum", "joint"] = "sum"
    gaussian_std: float | None = None
    residual: bool = True
    feed_forward: bool = True

    def __post_init__(self):
        parts = self.terms.split("+")
        known = set(parts) <= set(SIMILARITIES) or self.terms in ("value", "neighbour")
        if not known or len(set(parts)) != len(parts):
            raise RecipeError(
                f"attention.terms={self.terms!r}: join different ones of {', '.join(SIMILARITIES)} with '+', "
                "or use 'value' or 'neighbour'"
            )
        if self.gaussian_std is not None and self.gaussian_std <= 0:
            raise RecipeError(
                f"attention.gaussian_std={self.gaussian_std}: must be above 0 patches, or null"
            )
        if self.terms == "value" and self.gaussian_std is not None:
            raise RecipeError(
                "attention.terms='value' has no scores that a Gaussian neighbourhood could be added to; "
                "set attention.gaussian_std to null"
            )
        if self.terms == "neighbour" and self.gaussian_std is None:
            raise RecipeError(
                "attention.terms='neighbour' needs attention.gaussian_std; 5.0 is published"
            )

    def inert(self, recipe: "Recipe") -> dict[str, str]:
        """Fields that were changed and have no part, where another stage takes their place."""
        unused: tuple[str, ...] = ()
        if recipe.has("ignores_attention"):
            reason, unused = (
                "another stage computes the last block by itself",
                tuple(f.name for f in fields(self)),
            )
        # further stages at this point may ask for the recipe's own attention in other blocks
        elif recipe.has("replaces_weights") and len(recipe.stages_with("on_weights")) == 1:
            reason, unused = (
                "another stage gives the weights by itself",
                ("terms", "combine", "gaussian_std"),
            )
        changed = [f.name for f in fields(self) if getattr(self, f.name) != f.default]
        return {name: reason for name in changed if name in unused}

    @property
    def is_identity(self) -> bool:
        """Whether each token sees itself only (MaskCLIP), so that no weights are computed."""
        return self.terms == "value"

    def weights(self, tap: Tap, grid: tuple[int, int], scale: float, adjust=None) -> Tensor:
        """Attention weights (B, heads, T, T) for the projections of a block.

        Args:
            tap: projections of the block.
            grid: (h, w) patches.
            scale: factor of the raw similarities, head width ** -0.5.
            adjust: optional function of a score matrix (scaled, before the neighbourhood and the softmax).
        """
        if self.terms == "value":
            eye = torch.eye(tap.v.shape[-2], dtype=tap.v.dtype, device=tap.v.device)
            return eye.expand(*tap.v.shape[:3], -1)
        omega: Tensor | float = 0.0
        if self.gaussian_std is not None:
            omega = neighbourhood(grid, self.gaussian_std).to(tap.q)
        if self.terms == "neighbour":
            norms = [x.norm(dim=-1).mean(dim=-1) for x in (tap.q, tap.k)]
            size = scale * (norms[0] * norms[1]).mean(dim=-1)[:, None, None, None]
            scores = (omega * size).expand(*tap.q.shape[:3], -1)
            return (adjust(scores) if adjust else scores).softmax(dim=-1)
        scores = []
        for term in self.terms.split("+"):
            left, right = (getattr(tap, letter) for letter in term)
            score = (left * scale) @ right.transpose(-2, -1)
            scores.append((adjust(score) if adjust else score) + omega)
        if self.combine == "joint":
            return sum(scores).softmax(dim=-1)
        return sum(score.softmax(dim=-1) for score in scores)

    def tokens(self, backbone: Backbone, trunk: TrunkOutput, weights: Tensor | None) -> Tensor:
        """Output tokens (B, T, width) of the last block for given attention weights (None: identity)."""
        last = backbone.layers - 1
        value = trunk.taps[last].v
        block = backbone.blocks[last]
        mixed = block.ls_1(backbone.join(last, value if weights is None else weights @ value))
        tokens = trunk.tokens + mixed if self.residual else mixed
        return tokens + backbone.feed_forward(last, tokens) if self.feed_forward else tokens
