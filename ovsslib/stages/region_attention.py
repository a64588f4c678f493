"""CorrCLIP: region masks bound who attends to whom, a guide weighs it, three branches add up (Zhang et al., ICCV 2025)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast

import torch
from torch import Tensor

from ovsslib.errors import RecipeError
from ovsslib.recipe import stage
from ovsslib.stages.contexts import AttentionContext, DenseTokens
from ovsslib.stages.guided import out_projection, unit_patches, values_on
from ovsslib.stages.region_scope import (
    merged_regions,
    middle_blocks,
    region_tokens,
    resized_regions,
    scoped_attention,
)
from ovsslib.stages.replacing import rivals

if TYPE_CHECKING:
    from ovsslib.recipe import Recipe


@stage(
    "region_attention",
    point="attention",
    order=94,
    summary="region masks bound attention, a guide weighs it, region tokens are added (CorrCLIP)",
)
@dataclass(frozen=True)
class RegionAttentionSettings:
    """Replaces the last block by three branches on the guide's grid, each through ln_post and the projection.

    Patches of one region attend to each other with weights softmax(tau S), S the cosines of the guide's q + k. The
    main branch mixes the last block's values, the middle one those that the last block takes from the mean of middle
    blocks; the third gives every patch the token of its region, which ran through the whole tower. Regions of a window
    whose mean features are alike are one. See `ovsslib.stages.region_scope`.

    Attributes:
        guide: the second encoder.
        proposer: where the region masks come from.
        tau: factor of the guide's similarities before the softmax.
        distance: how far below the best pair's cosine two regions may lie and still be merged.
        main, middle, semantic: shares of the last block's branch, of the middle blocks' and of the region tokens'.
    """

    version: ClassVar[int] = 1
    capabilities: ClassVar[frozenset[str]] = frozenset({"ignores_attention"})

    guide: str = "scenedino"
    proposer: str = "felzenszwalb"
    tau: float = 4.0
    distance: float = 0.2
    main: float = 1.0
    middle: float = 1.0
    semantic: float = 0.5

    def __post_init__(self):
        for name in ("tau", "distance"):
            if getattr(self, name) <= 0:
                raise RecipeError(f"region_attention.{name}={getattr(self, name)}: must be above 0")
        for name in ("main", "middle", "semantic"):
            if getattr(self, name) < 0:
                raise RecipeError(
                    f"region_attention.{name}={getattr(self, name)}: must be 0 or more"
                )
        if not self.main + self.middle + self.semantic:
            raise RecipeError("region_attention: main, middle and semantic are 0; nothing is left")

    def refuse(self, recipe: "Recipe") -> str | None:
        """Why these settings cannot work with the rest of a recipe."""
        if recipe.at("views"):
            return (
                "its region masks are those of the window as it is; turn the views of windows off"
            )
        return rivals(recipe, self)

    def guide_name(self) -> str:
        """The second encoder that is needed."""
        return self.guide

    def proposer_name(self) -> str:
        """The mask proposer that is needed."""
        return self.proposer

    def taps(self, layers: int) -> set[int]:
        """0-based blocks whose projections are needed: all, for the region tokens."""
        return set(range(layers)) if self.semantic else set()

    def inputs(self, layers: int) -> set[int]:
        """0-based blocks whose input tokens are needed: outputs of the middle blocks, and the tower's own input."""
        blocks = {index + 1 for index in middle_blocks(layers)} if self.middle else set()
        return blocks | ({0} if self.semantic else set())

    def replace_block(self, context: AttentionContext) -> DenseTokens:
        """Tokens (B, N, dim) in the joint space on the guide's grid of N patches."""
        if context.regions is None:
            raise RecipeError(
                "region_attention has no region masks; give the segmenter's `regions`, or a photograph to propose from"
            )
        maps = context.guide_features("q+k")
        features, grid = unit_patches(maps), (maps.shape[-2], maps.shape[-1])
        head, tokens = context.backbone.head, []
        for index, window in enumerate(context.regions):
            parts = self._branches(context, index, features[index], window, grid)
            window_tokens = sum(share * head(part[None]) for part, share in parts if share)
            tokens.append(cast(Tensor, window_tokens))
        return DenseTokens(torch.cat(tokens), grid, projected=True)

    def _branches(
        self,
        context: AttentionContext,
        index: int,
        features: Tensor,
        window: Tensor,
        grid: tuple[int, int],
    ) -> list[tuple[Tensor, float]]:
        """Branches (N, width) of one window before ln_post, with their shares.

        Args:
            index: of the window in its batch.
            features: (N, C) unit features of the guide.
            window: (H', W') region ids of the window's pixels.
        """
        backbone, trunk = context.backbone, context.trunk[index : index + 1]
        maps = features.T.unflatten(1, grid)
        regions = merged_regions(resized_regions(window, grid), maps, self.distance)
        heads = [trunk.taps[backbone.layers - 1].v]
        if self.middle:
            mean = middle_mean(trunk.inputs, backbone.layers)
            heads.append(backbone.project(backbone.layers - 1, mean).v)
        values = [values_on(branch, context.grid, grid)[0] for branch in heads]
        mixed = scoped_attention(features, regions.flatten(), values, self.tau)
        shares = (self.main, self.middle)[: len(mixed)]
        parts = [
            (out_projection(backbone, branch), share)
            for branch, share in zip(mixed, shares, strict=True)
        ]
        if self.semantic:
            parts.append((semantic_patches(context, index, regions), self.semantic))
        return parts


def middle_mean(inputs: dict[int, Tensor], layers: int) -> Tensor:
    """Mean (B, T, width) of the outputs of the middle blocks; the output of a block is the input of the next."""
    return torch.stack([inputs[index + 1] for index in middle_blocks(layers)]).mean(dim=0)


def semantic_patches(context: AttentionContext, index: int, regions: Tensor) -> Tensor:
    """Every patch's region token: (N, width), behind the last block, before ln_post.

    Regions go to the tower's grid and back by nearest neighbours, as in the released code, so that small ones vanish.

    Args:
        index: of the window in its batch.
        regions: (H, W) merged ids on the guide's grid.
    """
    trunk = context.trunk[index : index + 1]
    coarse = resized_regions(regions, context.grid)
    ids, row = coarse.unique(return_inverse=True)
    tokens = region_tokens(context.backbone, trunk, coarse[None], ids)[0]
    return tokens[resized_regions(row, (regions.shape[0], regions.shape[1])).flatten()]
