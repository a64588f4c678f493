"""RF-CLIP's attention redistribution: weight that many patches waste on a sink is given to the
other patches.

Source: RF-CLIP (AAAI 2026, arXiv 2511.16170). Its released code has the function but never calls it
with this strategy, so no published recipe turns it on.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ovsslib.errors import RecipeError
from ovsslib.recipe import Recipe, stage
from ovsslib.stages.contexts import TrunkContext


@stage(
    "refocus_attention",
    point="trunk",
    order=60,
    summary="attention on sinks goes to the other patches (RF-CLIP)",
)
@dataclass(frozen=True)
class RefocusAttentionSettings:
    """In every block but the last, weights of patches on sinks are multiplied by `beta`, the rest
    redistributed.

    Attributes:
        threshold: a patch is a sink of a head if the weights it receives from all patches, divided
            by the number of tokens, exceed this (code: 0.1).
        beta: what a sink keeps (code: 0.6).
    """

    version: ClassVar[int] = 1
    capabilities: ClassVar[frozenset[str]] = frozenset({"untraceable"})  # no sinks: no step at all
    threshold: float = 0.1
    beta: float = 0.6

    def __post_init__(self):
        if self.threshold <= 0:
            raise RecipeError(f"refocus_attention.threshold={self.threshold}: must be above 0")
        if not 0 <= self.beta <= 1:
            raise RecipeError(f"refocus_attention.beta={self.beta}: must lie between 0 and 1")

    def inert(self, recipe: Recipe) -> str | None:
        """Sinks that keep all, or cannot exist, change nothing."""
        if self.beta == 1:
            return "beta is 1"
        return "no mean weight exceeds a threshold of 1 or more" if self.threshold >= 1 else None

    def on_block_weights(self, weights: Tensor, index: int, context: TrunkContext) -> Tensor:
        """Redistribute the weights (B, heads, T, T) of a block; class row and column stay, rows
        keep their sums.
        """
        return refocus(weights, self.threshold, self.beta)


def refocus(weights: Tensor, threshold: float, beta: float) -> Tensor:
    """Weights (B, heads, T, T), class token first -> those of :class:`RefocusAttentionSettings`."""
    patches = weights[..., 1:, 1:].float()
    sink = (patches.sum(dim=-2, keepdim=True) / weights.shape[-1]) > threshold
    if not bool(sink.any()):
        return weights
    on_sinks = patches * sink
    off_sinks = patches - on_sinks
    freed = (1 - beta) * on_sinks.sum(dim=-1, keepdim=True)
    out = weights.clone()
    shared = off_sinks * (freed / (off_sinks.sum(dim=-1, keepdim=True) + 1e-8))
    out[..., 1:, 1:] = (beta * on_sinks + off_sinks + shared).to(weights.dtype)
    return out
