"""GEM: a second stream of self-self attention through the last blocks (Bousselham et al., CVPR 2024)."""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from ovsslib.errors import RecipeError
from ovsslib.recipe import stage
from ovsslib.stages.contexts import AttentionContext, DenseTokens
from ovsslib.stages.replacing import rivals


@stage(
    "gem",
    point="attention",
    order=90,
    summary="self-self attention stream through the last blocks (GEM)",
)
@dataclass(frozen=True)
class GemSettings:
    """Replaces the last block: g <- g + mean of the v-v, k-k and q-q paths over the last `depth` blocks.

    Attributes:
        depth: number of blocks that feed the stream (released: 6, which its code calls depth 7).
        iterations: refinements p <- softmax(tau p p^T) p of each projection before its attention (released: 1).
    """

    version: ClassVar[int] = 1
    capabilities: ClassVar[frozenset[str]] = frozenset({"ignores_attention"})

    depth: int = 6
    iterations: int = 1

    def __post_init__(self):
        if self.depth < 1:
            raise RecipeError(f"gem.depth={self.depth}: must be 1 or more blocks")
        if self.iterations < 0:
            raise RecipeError(f"gem.iterations={self.iterations}: must be 0 or more")

    def refuse(self, recipe) -> str | None:
        """Why these settings cannot work with the rest of a recipe."""
        return rivals(recipe, self)

    def taps(self, layers: int) -> set[int]:
        """0-based blocks whose projections are needed. Raises RecipeError if the model has fewer."""
        if self.depth > layers:
            raise RecipeError(f"gem.depth={self.depth}: the model has {layers} blocks")
        return set(range(layers - self.depth, layers))

    def inputs(self, layers: int) -> set[int]:
        """0-based blocks whose input tokens are needed."""
        return {layers - self.depth}

    def replace_block(self, context: AttentionContext) -> DenseTokens:
        """Output tokens of the stream, before ln_post."""
        backbone, trunk = context.backbone, context.trunk
        first = backbone.layers - self.depth
        stream = trunk.inputs[first]
        for index in range(first, backbone.layers):
            stream = stream + backbone.blocks[index].ls_1(
                gem_attention(backbone, index, trunk.taps[index], self.iterations)
            )
        return DenseTokens.split(stream, trunk.grid)


def gem_attention(backbone, index: int, tap, iterations: int) -> Tensor:
    """Attention output (B, T, width) of one block on GEM's path; its temperature is set per picture."""
    tau = backbone.scale * tap.normed.float().norm(dim=-1).mean(dim=-1)
    tau = tau[:, None, None, None].to(tap.v)

    def self_attention(projection: Tensor) -> Tensor:
        p = projection
        for _ in range(iterations):
            p = F.normalize(p, dim=-1)
            p = (tau * (p @ p.transpose(-2, -1))).softmax(dim=-1) @ p
        p = F.normalize(p, dim=-1)
        return (tau * (p @ p.transpose(-2, -1))).softmax(dim=-1) @ tap.v

    return backbone.join(index, sum(self_attention(p) for p in (tap.v, tap.k, tap.q)) / 3)
