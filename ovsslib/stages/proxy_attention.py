"""ProxyCLIP: the last block's attention comes from a second encoder, CLIP gives the values (Lan et al., ECCV 2024)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from ovsslib.errors import RecipeError, did_you_mean
from ovsslib.guides.reading import KINDS
from ovsslib.recipe import stage
from ovsslib.stages.contexts import AttentionContext, DenseTokens
from ovsslib.stages.guided import (
    guided_attention,
    mean_similarity,
    out_projection,
    unit_patches,
    values_on,
)
from ovsslib.stages.replacing import rivals

if TYPE_CHECKING:
    from ovsslib.recipe import Recipe


@stage(
    "proxy_attention",
    point="attention",
    order=92,
    summary="a guide's features say who attends to whom, CLIP gives the values (ProxyCLIP)",
)
@dataclass(frozen=True)
class ProxyAttentionSettings:
    """Replaces the last block: softmax((S - beta mean(S)) gamma) over what is not negative, times CLIP's values.

    S are the cosines of the guide's patches; the result lies on the guide's grid, to which CLIP's values are resized
    bilinearly. No residual, no feed-forward network, no class token, one matrix for all heads. The mean is taken per
    window, as in the released evaluation. The release mixes rows and columns of windows that are not square; here they
    are in order.

    Attributes:
        guide, kind: the second encoder and which of its features (`ovsslib.guides.KINDS`).
        beta: factor of the mean similarity that is subtracted (good from 1.0 to 1.6).
        gamma: factor before the softmax (good from 2.0 to 5.0).
    """

    version: ClassVar[int] = 1
    capabilities: ClassVar[frozenset[str]] = frozenset({"ignores_attention"})

    guide: str = "scenedino"
    kind: str = "last"
    beta: float = 1.2
    gamma: float = 3.0

    def __post_init__(self):
        for name in ("beta", "gamma"):
            if getattr(self, name) <= 0:
                raise RecipeError(f"proxy_attention.{name}={getattr(self, name)}: must be above 0")
        if self.kind not in KINDS:
            raise RecipeError(f"proxy_attention.kind={self.kind!r}{did_you_mean(self.kind, KINDS)}")

    def refuse(self, recipe: "Recipe") -> str | None:
        """Why these settings cannot work with the rest of a recipe."""
        return rivals(recipe, self)

    def guide_name(self) -> str:
        """The second encoder that is needed."""
        return self.guide

    def replace_block(self, context: AttentionContext) -> DenseTokens:
        """Attention outputs (B, N, width) on the guide's grid of N patches, before ln_post."""
        backbone = context.backbone
        maps = context.guide_features(self.kind)
        features, grid = unit_patches(maps), (maps.shape[-2], maps.shape[-1])
        tap = context.trunk.taps[backbone.layers - 1]
        values, means = values_on(tap.v, context.grid, grid), mean_similarity(features)
        mixed = [
            guided_attention(patches, value, float(mean), self.beta, self.gamma)
            for patches, value, mean in zip(features, values, means, strict=True)
        ]
        return DenseTokens(out_projection(backbone, torch.stack(mixed)), grid)
