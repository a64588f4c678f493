"""LPOSS: cosines propagated over a graph of the patches of all windows, by a guide's features (CVPR 2025)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch.nn.functional as F
from torch import Tensor

from ovsslib.errors import RecipeError, did_you_mean
from ovsslib.guides.reading import KINDS
from ovsslib.recipe import stage
from ovsslib.stages.contexts import AllWindowsContext, WindowContext
from ovsslib.stages.guided import unit_patches
from ovsslib.stages.patch_graph import patch_laplacian, patch_places, propagated

if TYPE_CHECKING:
    from ovsslib.recipe import Recipe


@stage(
    "patch_propagation",
    point="similarity",
    order=90,
    summary="cosines spread between patches of all windows that are alike and near (LPOSS)",
)
@dataclass(frozen=True)
class PatchPropagationSettings:
    """Solves (I - alpha D^-1/2 W D^-1/2) z = y for the cosines y of each query, by a few conjugate gradient steps.

    W joins patches that are alike to a guide and near in the picture; windows talk to each other where they overlap.
    z is not normalised: it grows to about y / (1 - alpha). Works on any recipe's cosines; where the guide's patches
    are smaller than CLIP's, unit features are resized to its grid and compared there.

    Attributes:
        guide, kind: the second encoder and which of its features (`ovsslib.guides.KINDS`).
        neighbours: number of nearest patches that a patch is joined to, itself included.
        gamma: exponent of the similarity (0 or more).
        sigma: how fast edges fade with the distance in pixels of the network picture. power: exponent of the distance.
        alpha: weight of the graph, below 1.
        iterations: of the solver; released: 10.
    """

    version: ClassVar[int] = 1

    guide: str = "scenedino"
    kind: str = "v"
    neighbours: int = 400
    gamma: float = 3.0
    sigma: float = 0.01
    power: float = 1.0
    alpha: float = 0.95
    iterations: int = 10

    def __post_init__(self):
        if self.kind not in KINDS:
            raise RecipeError(
                f"patch_propagation.kind={self.kind!r}{did_you_mean(self.kind, KINDS)}"
            )
        if not 0 <= self.alpha < 1:
            raise RecipeError(f"patch_propagation.alpha={self.alpha}: must lie in [0, 1)")
        for name, least in (("neighbours", 2), ("iterations", 1)):
            if getattr(self, name) < least:
                raise RecipeError(
                    f"patch_propagation.{name}={getattr(self, name)}: must be {least} or more"
                )
        for name in ("gamma", "sigma"):
            if getattr(self, name) < 0:
                raise RecipeError(
                    f"patch_propagation.{name}={getattr(self, name)}: must be 0 or more"
                )
        if self.power <= 0:
            raise RecipeError(f"patch_propagation.power={self.power}: must be above 0")

    def refuse(self, recipe: "Recipe") -> str | None:
        """Why these settings cannot work with the rest of a recipe."""
        if recipe.has("one_map") or recipe.stages_with("picture_logits"):
            return (
                "it joins the patches of windows, and another stage leaves one map of the picture"
            )
        return None

    def inert(self, recipe: "Recipe") -> str | None:
        """Without weight the graph changes nothing."""
        return "alpha is 0" if self.alpha == 0 else None

    def guide_name(self) -> str:
        """The second encoder that is needed."""
        return self.guide

    def on_similarity(self, logits: Tensor, context: WindowContext) -> Tensor:
        """Cosines (B, Q, h, w) -> those of unit features resized to the guide's grid, if it is another one."""
        assert context.guide is not None
        patch = context.guide.patch_size
        if patch < 2:
            raise RecipeError(
                f"patch_propagation.guide={context.guide.name!r} stretches every picture to a square of its own, so its "
                "cells are no patches of the picture; take a DINO, DINOv2 or MAE guide"
            )
        size = tuple(side // patch for side in context.window.shape[-2:])
        if min(size) < 1 or size == tuple(logits.shape[-2:]):
            return logits
        # resized cosines are those of the resized features, but for their length
        features = context.coarse if context.features is None else context.features
        resized = F.interpolate(F.normalize(features.float(), dim=1), size=size, mode="bilinear")
        lengths = resized.norm(dim=1, keepdim=True).clamp_min(1e-12)
        return F.interpolate(logits, size=size, mode="bilinear") / lengths

    def on_all_windows(self, logits: Tensor, context: AllWindowsContext) -> Tensor:
        """Cosines (N, Q, h, w) on the guide's grid -> the same, propagated."""
        assert context.guide is not None
        features = unit_patches(context.guide_features(self.kind)).flatten(0, 1)
        top, _, left, _ = context.grid.pad
        corners = [(t - top, s - left) for t in context.grid.tops for s in context.grid.lefts]
        grid = (logits.shape[-2], logits.shape[-1])
        places = patch_places(corners, grid, context.guide.patch_size)
        laplacian = patch_laplacian(
            features, places, self.neighbours, self.gamma, self.sigma, self.power, self.alpha
        )
        columns = logits.flatten(2).transpose(1, 2).flatten(0, 1)
        out = propagated(laplacian, columns, self.iterations)
        return out.unflatten(0, (len(logits), -1)).transpose(1, 2).unflatten(2, grid).contiguous()
