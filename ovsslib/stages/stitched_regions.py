"""OV-Stitcher: CorrCLIP's three branches on the whole picture, windows stitched before attention (CVPR 2026)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ovsslib.clip.backbone import Backbone
from ovsslib.errors import RecipeError
from ovsslib.guides.guide import Guide
from ovsslib.guides.reading import GuideReading
from ovsslib.guides.vit import DinoTransformer
from ovsslib.recipe import stage
from ovsslib.stages.contexts import DenseTokens, PictureContext
from ovsslib.stages.region_scope import (
    merged_regions,
    middle_blocks,
    region_tokens,
    resized_regions,
    scoped_attention,
)
from ovsslib.stages.replacing import rivals
from ovsslib.stages.stitching import PatchGrid, attend_rows

if TYPE_CHECKING:
    from ovsslib.recipe import Recipe


@stage(
    "stitched_regions",
    point="picture",
    order=30,
    summary="CorrCLIP's branches over the whole picture: region masks, a guide, stitched windows (OV-Stitcher)",
)
@dataclass(frozen=True)
class StitchedRegionsSettings:
    """Replaces the last block of all windows by one map of the picture, on the guide's grid of patches.

    Weights come from the guide inside regions of the picture; values are CLIP's, of the last block and of the mean of
    middle blocks, all stitched; a third part is one token per region and window. See the functions of
    `ovsslib.stages.region_scope` and below.

    Attributes:
        guide: the second encoder, a DINO (its last block is computed again over the whole picture).
        proposer: where the region masks come from.
        tau: factor of the guide's similarities before the softmax.
        distance: how far below the best pair's cosine two regions may lie and still be merged.
        middle, semantic: shares of the middle blocks' branch and of the region tokens'.
    """

    version: ClassVar[int] = 1
    capabilities: ClassVar[frozenset[str]] = frozenset({"one_map", "ignores_attention"})

    guide: str = "scenedino"
    proposer: str = "felzenszwalb"
    tau: float = 4.0
    distance: float = 0.2
    middle: float = 1.0
    semantic: float = 0.5

    def __post_init__(self):
        for name in ("tau", "distance"):
            if getattr(self, name) <= 0:
                raise RecipeError(f"stitched_regions.{name}={getattr(self, name)}: must be above 0")
        for name in ("middle", "semantic"):
            if getattr(self, name) < 0:
                raise RecipeError(
                    f"stitched_regions.{name}={getattr(self, name)}: must be 0 or more"
                )

    def refuse(self, recipe: "Recipe") -> str | None:
        """Why these settings cannot work with the rest of a recipe."""
        reason = rivals(recipe, self)
        if reason:
            return reason
        if recipe.at("views"):
            return "it takes one view of each window; turn the views off"
        return None

    def guide_name(self) -> str:
        """The second encoder that is needed."""
        return self.guide

    def proposer_name(self) -> str:
        """The mask proposer that is needed."""
        return self.proposer

    def taps(self, layers: int) -> set[int]:
        """0-based blocks whose projections are needed: all, for the region tokens."""
        return set(range(layers))

    def inputs(self, layers: int) -> set[int]:
        """0-based blocks whose input tokens are needed."""
        return {0, *middle_blocks(layers)}

    def replace_windows(self, context: PictureContext) -> DenseTokens:
        """Tokens (1, H W, dim) in the joint space on the picture's H x W patches of the guide."""
        backbone, guide = context.backbone, context.guide
        assert guide is not None and context.regions is not None
        coarse = PatchGrid(context.grid, backbone.patch_size)
        fine = PatchGrid(context.grid, guide.patch_size)
        features = picture_features(guide, context.guide_reading(), fine)
        grid = (features.shape[-2], features.shape[-1])
        regions = merged_regions(resized_regions(context.regions, grid), features, self.distance)
        values = [last_values(context, coarse), middle_values(context, coarse)]
        values = [
            F.interpolate(value[None], size=grid, mode="bilinear")[0].flatten(1).T
            for value in values
        ]
        mixed = scoped_attention(features.flatten(1).T, regions.flatten(), values, self.tau)
        main, middle = (backbone.output_layer(backbone.layers - 1, value) for value in mixed)
        parts = [(main, 1.0), (middle, self.middle)]
        if self.semantic:
            tokens = semantic_tokens(context, regions, fine)
            parts.append((tokens.flatten(1).T.to(backbone.stream_dtype), self.semantic))
        out = sum(share * backbone.head(part[None]) for part, share in parts)
        return DenseTokens(cast(Tensor, out), grid, projected=True, whole=True)


def picture_features(guide: Guide, reading: GuideReading, fine: PatchGrid) -> Tensor:
    """The guide's last block over the whole picture: unit features (C, H, W), float32.

    Queries, keys, values and the normalised output of the block before are stitched from the windows; then attention
    over all patches (no class token), both residuals, the feed-forward network, no final normalisation. The residual
    stream starts from the normalised output, as in the released code.

    Raises RecipeError for a guide that is no DINO transformer.
    """
    network = guide.network
    if not isinstance(network, DinoTransformer):
        raise RecipeError(
            f"stitched_regions.guide={guide.name!r}: its last block is computed again over the picture, which is known "
            "for DINO's transformers only; choose one of them (dino-vitb8, scenedino)"
        )
    q, k, v, before = (
        fine.stitched(reading.features(kind)) for kind in ("q", "k", "v", "penultimate")
    )
    grid = (before.shape[-2], before.shape[-1])
    heads = [x.flatten(1).T.unflatten(1, (guide.heads, -1)).transpose(0, 1) for x in (q, k, v)]
    scale = heads[0].shape[-1] ** -0.5
    # by head: queries, keys and values (h w, d)
    mixed = torch.stack(
        [attend_rows(q, k, v, scale) for q, k, v in zip(*heads, strict=True)], dim=1
    )
    block: Any = network.blocks[-1]
    dtype = block.attn.proj.weight.dtype
    x = before.flatten(1).T + block.attn.proj(mixed.flatten(1).to(dtype)).float()
    x = x + block.mlp(block.norm2(x.to(dtype))).float()
    return F.normalize(x, dim=-1).T.unflatten(1, grid)


def _tokens(heads: Tensor) -> Tensor:
    """Projections (N, heads, 1 + S, d) -> (N, S, heads d), class token dropped."""
    return heads[:, :, 1:].transpose(1, 2).flatten(2)


def last_values(context: PictureContext, coarse: PatchGrid) -> Tensor:
    """Stitched values of the last block: (width, h, w) float32."""
    tap = context.trunk.taps[context.backbone.layers - 1]
    return coarse.stitched_tokens(_tokens(tap.v)).float()


def middle_values(context: PictureContext, coarse: PatchGrid) -> Tensor:
    """Values that the last block takes from the mean of middle blocks over the picture: (width, h, w) float32.

    Each of these blocks runs on stitched input and projections, with one head: dot products over the whole width, but
    the scale of one head.
    """
    backbone: Backbone = context.backbone
    outputs = []
    for index in middle_blocks(backbone.layers):
        tap, block = context.trunk.taps[index], backbone.blocks[index]
        x = coarse.stitched_tokens(context.trunk.inputs[index][:, 1:])
        grid = (x.shape[-2], x.shape[-1])
        q, k, v = (
            coarse.stitched_tokens(_tokens(part)).flatten(1).T for part in (tap.q, tap.k, tap.v)
        )
        mixed = backbone.output_layer(index, attend_rows(q, k, v, backbone.scale)[None])
        x = x.flatten(1).T[None] + block.ls_1(mixed)
        outputs.append(x + backbone.feed_forward(index, x))
    mean = torch.stack(outputs).mean(dim=0)
    value = backbone.project(backbone.layers - 1, mean).v
    return value.transpose(1, 2).flatten(2)[0].T.unflatten(1, grid).float()


def semantic_tokens(context: PictureContext, regions: Tensor, fine: PatchGrid) -> Tensor:
    """Every patch's region token, mean over the windows that hold it: (width, H, W) float32.

    Every window has a token for every region of the picture, one that it does not hold included.

    Args:
        regions: (H, W) merged ids of the picture.
    """
    ids = regions.unique()
    cut = context.grid.crops(resized_regions(regions, context.grid.picture)[None])[:, 0]
    coarse = resized_regions(cut, context.trunk.grid)
    maps = []
    for index in range(len(cut)):  # one window at a time: a token per region in each
        window = slice(index, index + 1)
        tokens = region_tokens(context.backbone, context.trunk[window], coarse[window], ids)[0]
        window_ids = resized_regions(coarse[index], fine.window)
        row = torch.searchsorted(ids, window_ids.flatten())
        maps.append(tokens[row].T.unflatten(1, fine.window).float())
    return fine.stitched(torch.stack(maps))
