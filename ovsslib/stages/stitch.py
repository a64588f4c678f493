"""Windows stitched before the last block, whose attention then runs once over the whole picture.

The part of OV-Stitcher (Moon et al., CVPR 2026) that needs CLIP alone, for any recipe's own attention.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from ovsslib.recipe import stage
from ovsslib.stages.contexts import DenseTokens, PictureContext
from ovsslib.stages.replacing import rivals
from ovsslib.stages.stitching import ENTRIES, PatchGrid

if TYPE_CHECKING:
    from ovsslib.recipe import Recipe


@stage(
    "stitch",
    point="picture",
    order=10,
    summary="queries, keys and values of all windows stitched, one attention over the picture (OV-Stitcher)",
)
@dataclass(frozen=True)
class StitchSettings:
    """The recipe's `attention` runs on the picture's patches instead of each window's.

    Projections (and, with `attention.residual`, tokens) of the windows are put on the picture's grid of patches, as
    means where windows overlap. Class tokens belong to windows and take no part.
    """

    version: ClassVar[int] = 1
    capabilities: ClassVar[frozenset[str]] = frozenset({"one_map"})

    def refuse(self, recipe: "Recipe") -> str | None:
        """Why these settings cannot work with the rest of a recipe."""
        reason = rivals(recipe, self)
        if reason:
            return reason
        if recipe.at("views"):
            return "it takes one view of each window; turn the views off"
        return None

    def replace_windows(self, context: PictureContext) -> DenseTokens:
        """Output tokens (1, h w, width) of the last block on the picture's h x w patches, before ln_post."""
        assert context.recipe is not None  # the flow hands the recipe to stages at "picture"
        backbone, settings = context.backbone, context.recipe["attention"]
        last = backbone.layers - 1
        tap, patches = context.trunk.taps[last], PatchGrid(context.grid, backbone.patch_size)
        parts = [
            patches.stitched_tokens(x[:, :, 1:].transpose(1, 2).flatten(2))
            for x in (tap.q, tap.k, tap.v)
        ]
        grid = (parts[0].shape[-2], parts[0].shape[-1])
        q, k, v = (x.flatten(1).unflatten(0, (backbone.heads, -1)).transpose(1, 2) for x in parts)
        mixed = attend(q, k, v, grid, settings, backbone.scale)
        block = backbone.blocks[last]
        tokens = block.ls_1(backbone.join(last, mixed[None]))
        if settings.residual:
            trunk_tokens = patches.stitched_tokens(context.trunk.tokens[:, 1:])
            tokens = trunk_tokens.flatten(1).T[None] + tokens
        if settings.feed_forward:
            tokens = tokens + backbone.feed_forward(last, tokens)
        return DenseTokens(tokens, grid, whole=True, direct=True)


def attend(
    q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int], settings: Any, scale: float
) -> Tensor:
    """The last block's attention between patches alone, by head and rows, so that memory stays bounded.

    Args:
        q, k, v: (heads, N, d), N = h w.
        grid: (h, w).
        settings: terms, combine and gaussian_std of the recipe's attention.
        scale: of the raw similarities.

    Returns:
        (heads, N, d).
    """
    if settings.is_identity:
        return v
    step = max(1, ENTRIES // len(q[0]))
    size = scale * (q.norm(dim=-1).mean(dim=-1) * k.norm(dim=-1).mean(dim=-1)).mean()
    projections = {"q": q, "k": k, "v": v}
    out = torch.empty_like(v)
    for start in range(0, len(q[0]), step):
        rows = slice(start, start + step)
        near: Tensor | float = 0.0
        if settings.gaussian_std is not None:
            near = near_rows(grid, settings.gaussian_std, rows).to(q)
        for head in range(len(q)):
            if settings.terms == "neighbour":
                out[head, rows] = (near * size).softmax(dim=-1) @ v[head]
                continue
            scores = [
                (projections[left][head, rows] * scale) @ projections[right][head].T + near
                for left, right in settings.terms.split("+")
            ]
            if settings.combine == "joint":
                weights = sum(scores[1:], scores[0]).softmax(dim=-1)
            else:
                terms = [score.softmax(dim=-1) for score in scores]
                weights = sum(terms[1:], terms[0])
            out[head, rows] = weights @ v[head]
    return out


def near_rows(grid: tuple[int, int], std: float, rows: slice) -> Tensor:
    """Some rows of NACLIP's neighbourhood between the patches of a grid: (n, h w) float32."""
    across = torch.arange(grid[0] * grid[1])
    row, column = (across // grid[1]).float(), (across % grid[1]).float()
    distance = (row[rows, None] - row).square() + (column[rows, None] - column).square()
    return torch.exp(-distance / (2 * std**2))
