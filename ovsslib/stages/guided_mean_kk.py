"""RF-CLIP's last block: patches gathered by the likeness of the whole trunk, key-key attention of
all blocks.

Source: RF-CLIP (AAAI 2026, arXiv 2511.16170) as its released code computes it.
"""

from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from ovsslib.errors import RecipeError
from ovsslib.recipe import Recipe, stage
from ovsslib.stages.contexts import AttentionContext, DenseTokens
from ovsslib.stages.replacing import rivals

_LARGEST_HALF = 2.0**14


@stage(
    "guided_mean_kk",
    point="attention",
    order=90,
    summary="replaces the last block: guided patches, key-key attention of all blocks (RF-CLIP)",
)
@dataclass(frozen=True)
class GuidedMeanKkSettings:
    """Patches are (o_x + o_G) / 2 for two streams through the last block's attention, without
    residual and MLP.

    The guide G is the mean of the tokens behind all blocks; C the cosines of its patches, 0 below
    `threshold`. The streams are C times the patches entering the last block, and C times those of
    G. Their attention is the mean of softmax(k k^T) over all blocks. The class token is CLIP's own,
    of a plain last block.

    Attributes:
        threshold: cosines of the guide below it count as 0 (published: 0.4).
    """

    version: ClassVar[int] = 1
    capabilities: ClassVar[frozenset[str]] = frozenset({"ignores_attention"})
    threshold: float = 0.4

    def __post_init__(self):
        if not -1 <= self.threshold < 1:
            raise RecipeError(f"guided_mean_kk.threshold={self.threshold}: must lie in [-1, 1)")

    def refuse(self, recipe: Recipe) -> str | None:
        """Why these settings cannot work with the rest of a recipe."""
        return rivals(recipe, self)

    def taps(self, layers: int) -> set[int]:
        """0-based blocks whose projections are needed: all."""
        return set(range(layers))

    def inputs(self, layers: int) -> set[int]:
        """0-based blocks whose input tokens are needed: all but the first."""
        return set(range(1, layers))

    def replace_block(self, context: AttentionContext) -> DenseTokens:
        """Patches before ln_post and projection, and CLIP's own class token."""
        backbone, trunk = context.backbone, context.trunk
        last = backbone.layers - 1
        final = context.plain_block()
        guide = mean_tokens(
            [*(trunk.inputs[index] for index in range(1, last)), trunk.tokens, final]
        )
        similarity = thresholded_cosines(guide[:, 1:], self.threshold)
        blocks = (key_attention(trunk.taps[index].k, backbone.scale) for index in range(last))
        shared = cast(Tensor, sum(blocks))
        out: Tensor | float = 0.0
        for stream in (trunk.tokens, guide.to(trunk.tokens.dtype)):
            tap = backbone.project(last, gather(stream, similarity))
            weights = patch_attention(shared, tap.k, backbone.scale, backbone.layers)
            out = out + backbone.join(last, weights.to(tap.v.dtype) @ tap.v[:, :, 1:])
        return DenseTokens(cast(Tensor, out) / 2, context.grid, class_token=final[:, 0])


def mean_tokens(tokens: list[Tensor]) -> Tensor:
    """Mean of token tensors (B, T, D) of one shape, in float32."""
    total = tokens[0].float()
    for block_tokens in tokens[1:]:
        total = total + block_tokens.float()
    return total / len(tokens)


def thresholded_cosines(patches: Tensor, threshold: float) -> Tensor:
    """Cosines (B, P, P) float32 of patches (B, P, D), 0 where below `threshold`; rows are not
    normalised.
    """
    unit = F.normalize(patches.float(), dim=-1)
    cosines = unit @ unit.transpose(-2, -1)
    return cosines.masked_fill_(cosines < threshold, 0)


def gather(tokens: Tensor, similarity: Tensor) -> Tensor:
    """Tokens (B, 1 + P, D) with the patches replaced by `similarity` (B, P, P) times the patches.

    These sums grow with the picture. Half precision cannot hold them, so there each is scaled down
    until it fits; the layer normalisation that follows does not see the difference.
    """
    gathered = similarity @ tokens[:, 1:].float()
    if tokens.dtype != torch.float32:
        gathered = gathered / (gathered.abs().amax(dim=-1, keepdim=True) / _LARGEST_HALF).clamp_min(
            1
        )
    return torch.cat([tokens[:, :1], gathered.to(tokens.dtype)], dim=1)


def key_attention(k: Tensor, scale: float) -> Tensor:
    """softmax(s k k^T) over all tokens, (B, heads, T, d) -> (B, heads, T, T) float32."""
    return ((k * scale) @ k.transpose(-2, -1)).float().softmax(dim=-1)


def patch_attention(earlier: Tensor, k: Tensor, scale: float, blocks: int) -> Tensor:
    """Mean over all blocks, class row and column cut and nothing renormalised: (B, heads, P, P).

    Args:
        earlier: sum (B, heads, T, T) of the key-key attention of the blocks before the last. k: the
            last one's keys.
    """
    return ((earlier + key_attention(k, scale)) / blocks)[..., 1:, 1:]
