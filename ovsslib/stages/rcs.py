"""Residual cross-correlation self-attention of ResCLIP, as its released code computes it.

The thesis's operator of the same name works on features and is the stage `feature_rcs`.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ovsslib.errors import RecipeError
from ovsslib.recipe import stage


@stage(
    "rcs",
    point="attention",
    order=40,
    summary="mix in query-key attention of middle layers (ResCLIP)",
)
@dataclass(frozen=True)
class RcsSettings:
    """A <- tau ((1 - lam) A_self + lam A_cross), A_cross = mean of softmax(q k^T) over `layers`, per head.

    Attributes:
        layers: blocks, counted from 1 (published: 6 to 9).
        tau: factor that exists in the released code only (2.0 in every configuration).
        lam: share of the cross-correlation, 0 to 1.
    """

    version: ClassVar[int] = 1
    layers: tuple[int, ...] = (6, 7, 8, 9)
    tau: float = 2.0
    lam: float = 0.4

    def __post_init__(self):
        if not self.layers or min(self.layers) < 1 or len(set(self.layers)) != len(self.layers):
            raise RecipeError(f"rcs.layers={self.layers}: give different blocks counted from 1")
        if not 0 <= self.lam <= 1:
            raise RecipeError(f"rcs.lam={self.lam}: must lie between 0 and 1")
        if self.tau <= 0:
            raise RecipeError(f"rcs.tau={self.tau}: must be above 0")

    def inert(self, recipe) -> str | None:
        """No share and no factor: nothing changes."""
        return "lam is 0 and tau is 1" if self.lam == 0 and self.tau == 1 else None

    def taps(self, layers: int) -> set[int]:
        """0-based blocks whose projections are needed. Raises RecipeError for a block the model lacks."""
        if max(self.layers) >= layers:
            raise RecipeError(
                f"rcs.layers={self.layers}: the model has {layers} blocks, the last of them excluded"
            )
        return {layer - 1 for layer in self.layers}

    def on_weights(self, weights: Tensor, context) -> Tensor:
        """Mix (B, heads, T, T) weights of the last block with the middle layers' cross-correlation."""
        if self not in context.once:
            context.once[self] = self.cross_correlation(context)
        return self.tau * ((1 - self.lam) * weights + context.once[self])

    def cross_correlation(self, context) -> Tensor:
        """lam A_cross (B, heads, T, T)."""
        scale, cross = context.backbone.scale, torch.zeros(())
        for layer in self.layers:
            tap = context.trunk.taps[layer - 1]
            scores = (tap.q * scale) @ tap.k.transpose(-2, -1)
            cross = cross.to(scores) + scores.softmax(dim=-1)
        return self.lam * cross / len(self.layers)
