"""CLIP Surgery's second path: value-value attention of the last blocks, added up beside CLIP's own (Li et al., 2025)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from ovsslib.errors import RecipeError
from ovsslib.recipe import stage
from ovsslib.stages.contexts import AttentionContext, DenseTokens
from ovsslib.stages.replacing import rivals

if TYPE_CHECKING:
    from ovsslib.clip.backbone import Backbone
    from ovsslib.recipe import Recipe


@stage(
    "dual_path",
    point="attention",
    order=90,
    summary="value-value attention of the last blocks, added up beside CLIP's own path (CLIP Surgery)",
)
@dataclass(frozen=True)
class DualPathSettings:
    """Replaces the last block: n <- n + out(softmax(v v^T) v) over the last `depth` blocks, starting from their input.

    The values are those of CLIP's own path, which runs on unchanged and gives the class token. The second path has no
    feed-forward network; class token and patches see each other in it. Source: arXiv 2304.05653, its released code.

    Attributes:
        depth: number of blocks that feed the path (released: 6).
    """

    version: ClassVar[int] = 1
    capabilities: ClassVar[frozenset[str]] = frozenset({"ignores_attention", "patches_only"})

    depth: int = 6

    def __post_init__(self):
        if self.depth < 1:
            raise RecipeError(f"dual_path.depth={self.depth}: must be 1 or more blocks")

    def refuse(self, recipe: "Recipe") -> str | None:
        """Why these settings cannot work with the rest of a recipe."""
        return rivals(recipe, self)

    def taps(self, layers: int) -> set[int]:
        """0-based blocks whose projections are needed. Raises RecipeError if the model has fewer."""
        if self.depth > layers:
            raise RecipeError(
                f"dual_path.depth={self.depth}: the model has {layers} blocks; use at most so many"
            )
        return set(range(layers - self.depth, layers))

    def inputs(self, layers: int) -> set[int]:
        """0-based blocks whose input tokens are needed."""
        return {layers - self.depth}

    def replace_block(self, context: AttentionContext) -> DenseTokens:
        """Patches (B, P, width) of the second path, before ln_post. The class token is CLIP's own."""
        backbone, trunk = context.backbone, context.trunk
        first = backbone.layers - self.depth
        path = trunk.inputs[first]
        for index in range(first, backbone.layers):
            path = path + value_attention(backbone, index, trunk.taps[index])
        return DenseTokens(path[:, 1:], context.grid)


def value_attention(backbone: "Backbone", index: int, tap: Any) -> Tensor:
    """out(softmax(v v^T d^-0.5) v) of a 0-based block, (B, T, width), for its projections."""
    mixed = F.scaled_dot_product_attention(tap.v, tap.v, tap.v)
    return backbone.blocks[index].ls_1(backbone.join(index, mixed))
