"""ITACLIP's attention of middle layers, mixed into the last block's (ITACLIP, equation 8)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ovsslib.errors import RecipeError
from ovsslib.recipe import stage


@stage(
    "middle_layers",
    point="attention",
    order=20,
    summary="mix in attention of middle layers (ITACLIP)",
)
@dataclass(frozen=True)
class MiddleLayersSettings:
    """A <- (1 - weight) A_last + weight * mean of A_l over `layers`, head by head.

    Attributes:
        layers: blocks, counted from 1.
        weight: share of the middle layers, 0 to 1 (published: one half).
    """

    version: ClassVar[int] = 1
    layers: tuple[int, ...] = (7, 8, 10)
    weight: float = 0.5

    def __post_init__(self):
        if not self.layers or min(self.layers) < 1 or len(set(self.layers)) != len(self.layers):
            raise RecipeError(
                f"middle_layers.layers={self.layers}: give different blocks counted from 1"
            )
        if not 0 <= self.weight <= 1:
            raise RecipeError(f"middle_layers.weight={self.weight}: must lie between 0 and 1")

    def refuse(self, recipe) -> str | None:
        """Why these settings cannot work with the rest of a recipe."""
        if recipe["attention"].is_identity:
            return "attention.terms='value' gives every layer the same weights, so there is nothing to mix"
        return None

    def inert(self, recipe) -> str | None:
        """A share of 0 changes nothing."""
        return "weight is 0" if self.weight == 0 else None

    def taps(self, layers: int) -> set[int]:
        """0-based blocks whose projections are needed. Raises RecipeError for a block the model lacks."""
        if max(self.layers) >= layers:
            raise RecipeError(
                f"middle_layers.layers={self.layers}: the model has {layers} blocks, the last of them excluded"
            )
        return {layer - 1 for layer in self.layers}

    def on_weights(self, weights: Tensor, context) -> Tensor:
        """Mix (B, heads, T, T) weights of the last block with those of the middle layers."""
        middle = sum(context.base(context.trunk.taps[layer - 1]) for layer in self.layers)
        return (1 - self.weight) * weights + self.weight * middle / len(self.layers)
