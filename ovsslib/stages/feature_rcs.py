"""The thesis's residual cross-correlation: patch features are smoothed by their own similarity.

Source: thesis, section 3.2.2.1, equations 3.3 and 3.4: C = F F^T, F + alpha softmax(C) F. Despite
its name this is not ResCLIP's RCS, which mixes attention of middle layers into the last block
(stage `rcs`); it is a non-local smoothing of the final features.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ovsslib.errors import RecipeError
from ovsslib.recipe import stage

_WEIGHTS_AT_A_TIME = 1 << 25  # 128 MB of float32, if the attention kernel should store them at all


def smooth_by_similarity(
    features: Tensor, alpha: float = 0.3, temperature: float = 0.07, literal: bool = False
) -> Tensor:
    """F + alpha softmax(F F^T / temperature) F over all patches of a window.

    Args:
        features: (B, D, h, w) float.
        alpha: strength. temperature: of the softmax over patches.
        literal: the thesis's formula as it stands, on features of their own length and without
            temperature. On long features the softmax then saturates at one or few patches
            of nearly the same direction, and the step does little more than scale the features.

    Returns:
        (B, D, h, w) float32. Memory is bounded for any grid: rows of the similarity go through in
        parts.
    """
    height, width = features.shape[-2:]
    rows = features.float().flatten(2).transpose(1, 2)
    if literal:
        temperature = 1.0
    else:
        rows = F.normalize(rows, dim=-1)
    count = rows.shape[1]
    step = max(1, _WEIGHTS_AT_A_TIME // (count * rows.shape[0]))
    keys = rows.unsqueeze(1)
    parts = [
        F.scaled_dot_product_attention(part, keys, keys, scale=1 / temperature)
        for part in keys.split(step, dim=2)
    ]
    mixed = rows + alpha * torch.cat(parts, 2).squeeze(1)
    return mixed.transpose(1, 2).unflatten(2, (height, width))


@stage(
    "feature_rcs",
    point="features",
    order=20,
    summary="smooth features by their own similarity (thesis RCS)",
)
@dataclass(frozen=True)
class FeatureRcs:
    """Settings of the thesis's RCS.

    Attributes:
        alpha: strength of the residual (thesis: 0.3).
        temperature: of the softmax; the thesis gives none, its author's code uses 0.07.
        literal: no normalisation and no temperature, see :func:`smooth_by_similarity`.
    """

    version: ClassVar[int] = 1
    alpha: float = 0.3
    temperature: float = 0.07
    literal: bool = False

    def __post_init__(self) -> None:
        if self.alpha < 0:
            raise RecipeError(f"feature_rcs.alpha is {self.alpha!r}; it must be 0 or more")
        if not self.temperature > 0:
            raise RecipeError(
                f"feature_rcs.temperature is {self.temperature!r}; it must be above 0"
            )

    def inert(self, recipe: object) -> str | None:
        """A strength of 0 changes nothing."""
        return "alpha is 0" if self.alpha == 0 else None

    def on_features(self, features: Tensor, context: object) -> Tensor:
        """(B, D, h, w) -> (B, D, h, w) float32."""
        return smooth_by_similarity(features, self.alpha, self.temperature, self.literal)
