"""The thesis's semantic feedback: confident patches of a coarse prediction pull the logits of those
like them.

Source: thesis, section 3.2.2.2 (four steps in words, no formula). It is not ResCLIP's SFR, which
feeds a first segmentation back into the last block's attention (stage `sfr`).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ovsslib.errors import RecipeError
from ovsslib.recipe import stage


def choose_anchors(
    confidence: Tensor, label: Tensor, quantile: float, least: float = 0.0
) -> Tensor:
    """Confident patches: per predicted label those at or above the quantile of its patches'
    confidence.

    Args:
        confidence: (N,) probability of the predicted label. label: (N,) long.
        quantile: 0..1, interpolated linearly; 0.75 takes the top quartile, at least one patch per
            label.
        least: confidence that an anchor must have in any case.

    Returns:
        (N,) bool.
    """
    anchors = torch.zeros_like(label, dtype=torch.bool)
    for value in label.unique():
        members = (label == value).nonzero().flatten()
        # The number of values at or above the interpolated quantile; ranks are safe against
        # rounding.
        count_below = math.ceil(quantile * (len(members) - 1) - 1e-9)
        anchors[members[confidence[members].topk(len(members) - count_below).indices]] = True
    return anchors & (confidence >= least)


def pull_to_anchors(
    logits: Tensor,
    features: Tensor,
    anchor_logits: Tensor,
    anchor_features: Tensor,
    step: float,
    temperature: float,
) -> Tensor:
    """Move each cell's logits by step * (greatest cosine to an anchor) towards the mean of the
    anchors' logits.

    Args:
        logits: (N, Q). features: (N, D) unit rows. anchor_logits: (A, Q). anchor_features: (A, D)
            unit rows.
        step: greatest share that is moved. temperature: of the softmax over cosines that weighs the
            mean.

    Returns:
        (N, Q). Cells that resemble no anchor (cosine 0 or less) stay; without anchors all do.
    """
    if len(anchor_features) == 0:
        return logits
    cosines = features @ anchor_features.T
    target = (cosines / temperature).softmax(-1) @ anchor_logits
    share = step * cosines.amax(-1, keepdim=True).clamp(0, 1)
    return logits + share * (target - logits)


def semantic_feedback(
    logits: Tensor,
    features: Tensor,
    coarse_grid: tuple[int, int],
    passes: Sequence[Tensor] = (),
    iterations: int = 2,
    quantile: float = 0.75,
    temperature: float = 0.07,
    step: float = 0.4,
    logit_scale: float = 40.0,
    least: float = 0.0,
    queries: int | None = None,
) -> Tensor:
    """Refine the logits of windows by anchors out of their own coarse prediction.

    Each iteration averages logits and features down to the coarse grid, takes class probabilities
    there, chooses anchors anew, and pulls the fine logits towards them.

    Args:
        logits: (B, Q, h, w) cosines on the upsampled grid. features: (B, D, h, w), of any length.
        coarse_grid: (h0, w0) patches of the tower, at most (h, w).
        passes: coarse logits `(B, Q, *, *)` of further passes at other image scales, averaged in.
        iterations, quantile, temperature, step: as in :func:`choose_anchors` and
            :func:`pull_to_anchors`.
        logit_scale: of the softmax that gives the coarse probabilities.
        least: least confidence of an anchor.
        queries: how many of the Q rows are words; the rest (texts of groups) are moved but do not
            choose.

    Returns:
        (B, Q, h, w), dtype of `logits`.
    """
    size = logits.shape[-2:]
    refined = logits.float()
    unit = F.normalize(features.float(), dim=1)
    small = F.normalize(F.adaptive_avg_pool2d(unit, coarse_grid), dim=1).flatten(2).transpose(1, 2)
    unit = unit.flatten(2).transpose(1, 2)
    extra = [
        F.interpolate(scale_logits.float(), coarse_grid, mode="bilinear") for scale_logits in passes
    ]
    for _ in range(iterations):
        coarse = F.adaptive_avg_pool2d(refined, coarse_grid)
        coarse = (coarse + sum(extra)) / (1 + len(extra)) if extra else coarse
        coarse = coarse.flatten(2).transpose(1, 2)
        confidence, label = (logit_scale * coarse[..., :queries]).softmax(-1).max(-1)
        moved = []
        for item, rows in enumerate(refined.flatten(2).transpose(1, 2)):
            anchors = choose_anchors(confidence[item], label[item], quantile, least)
            moved.append(
                pull_to_anchors(
                    rows, unit[item], coarse[item][anchors], small[item][anchors], step, temperature
                )
            )
        refined = torch.stack(moved).transpose(1, 2).unflatten(2, size)
    return refined.to(logits.dtype)


@stage(
    "feedback",
    point="similarity",
    summary="confident patches pull the logits of those like them (thesis SFR)",
)
@dataclass(frozen=True)
class Feedback:
    """Settings of the thesis's semantic feedback.

    Attributes:
        iterations: how often anchors are chosen and logits moved.
        quantile: of confidence per predicted class, from which on a patch is an anchor.
        temperature: of the weights of anchors. step: greatest share that a logit moves (b).
        scales: "single" uses the one pass there is; "multi" averages in coarse logits of passes at
            `extra_scales` of the window's size, as the thesis counts 2 to 3 passes.
        logit_scale: of the softmax that gives the coarse probabilities.
        least_confidence: anchors need at least this probability; where there are none, nothing
            changes.
    """

    version: ClassVar[int] = 1
    iterations: int = 2
    quantile: float = 0.75
    temperature: float = 0.07
    step: float = 0.4
    scales: Literal["single", "multi"] = "single"
    extra_scales: tuple[float, ...] = (0.75, 1.5)
    logit_scale: float = 40.0
    least_confidence: float = 0.0

    def __post_init__(self) -> None:
        if self.iterations < 0:
            raise RecipeError(f"feedback.iterations is {self.iterations!r}; it must be 0 or more")
        for name in ("quantile", "step", "least_confidence"):
            if not 0 <= getattr(self, name) <= 1:
                raise RecipeError(
                    f"feedback.{name} is {getattr(self, name)!r}; it must be between 0 and 1"
                )
        for name in ("temperature", "logit_scale"):
            if not getattr(self, name) > 0:
                raise RecipeError(f"feedback.{name} is {getattr(self, name)!r}; it must be above 0")
        if self.scales not in ("single", "multi"):
            raise RecipeError(f"feedback.scales is {self.scales!r}; choose 'single' or 'multi'")
        if not self.extra_scales or min(self.extra_scales) <= 0:
            raise RecipeError(
                f"feedback.extra_scales is {self.extra_scales!r}; give factors above 0"
            )

    capabilities: ClassVar[frozenset[str]] = frozenset({"compares_in_place"})

    def inert(self, recipe: object) -> str | None:
        """No iteration or no step: nothing moves."""
        if self.iterations == 0 or self.step == 0:
            return f"iterations is {self.iterations} and step is {self.step}"
        return None

    def on_similarity(self, logits: Tensor, context: Any) -> Tensor:
        """(B, Q, h, w) cosines -> refined ones.

        `context.features` is (B, D, h, w), `context.coarse_grid` (h0, w0),
        `context.coarse_logits_at` a function of the scale for `scales="multi"`, `context.queries`
        (optional) the number of words among the Q rows.
        Raises RecipeError if further passes are wanted and cannot be had.
        """
        passes: list[Tensor] = []
        if self.scales == "multi":
            at: Callable[[float], Tensor] | None = context.coarse_logits_at
            if at is None:
                raise RecipeError(
                    "feedback.scales='multi' needs passes at other image scales, which are not to "
                    "be had here; set it to 'single'"
                )
            passes = [at(scale) for scale in self.extra_scales]
        return semantic_feedback(
            logits,
            context.features,
            context.coarse_grid,
            passes,
            self.iterations,
            self.quantile,
            self.temperature,
            self.step,
            self.logit_scale,
            self.least_confidence,
            getattr(context, "queries", None),
        )
