"""Temperature: sharper probabilities where the words are undecided (thesis, equation 3.11).

A temperature never changes a pixel's argmax by itself. It acts through what follows it: thresholds, hierarchy,
DenseCRF. `inert` says so where nothing follows.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import scipy  # its parts load when first used
import torch
from torch import Tensor

from ovsslib.errors import RecipeError
from ovsslib.recipe import stage


@stage(
    "calibration",
    point="confidence",
    order=20,
    summary="temperature by entropy, or one fitted temperature",
)
@dataclass(frozen=True)
class CalibrationSettings:
    """Settings of the temperature.

    Attributes:
        mode: "entropy": T falls smoothly from `hot` to `cold` as a pixel's normalised entropy rises between two
            quantiles of the picture; "fixed": every pixel gets `temperature`.
        hot, cold: temperatures below the lower and above the upper quantile, cold <= hot.
        lower, upper: the quantiles, 0 to 1.
        temperature: of the mode "fixed", for instance from :func:`fit_temperature`.
        when: "before" sharpens the logits before hierarchy, thresholds and CRF; "after" sharpens the class scores
            behind the hierarchy (before thresholds and CRF still).
    """

    version: ClassVar[int] = 1
    mode: Literal["entropy", "fixed"] = "entropy"
    hot: float = 1.0
    cold: float = 0.5
    lower: float = 0.5
    upper: float = 0.9
    temperature: float = 1.0
    when: Literal["before", "after"] = "before"

    def __post_init__(self):
        if not 0 < self.cold <= self.hot:
            raise RecipeError(
                f"calibration.cold={self.cold}, calibration.hot={self.hot}: need 0 < cold <= hot"
            )
        if not 0 <= self.lower < self.upper <= 1:
            raise RecipeError(
                f"calibration.lower={self.lower}, calibration.upper={self.upper}: need 0 <= lower < upper <= 1"
            )
        if self.temperature <= 0:
            raise RecipeError(f"calibration.temperature={self.temperature}: must be above 0")

    def inert(self, recipe) -> str | None:
        """Why the label map cannot change here, or None."""
        ends = {self.temperature} if self.mode == "fixed" else {self.hot, self.cold}
        if ends == {1.0}:
            return "the temperature is 1 everywhere"
        # the area threshold counts argmaxes, which a temperature leaves alone
        if recipe.has("reads_probabilities") or recipe["labels"].probability_threshold:
            return None
        if recipe.has("reads_scaled_logits") and self.when == "before":
            return None
        return (
            "a temperature keeps each pixel's order of classes, and nothing that follows it asks for more "
            "(a probability threshold, a soft hierarchy, a CRF)"
        )

    def on_scaled_logits(self, logits: Tensor, context) -> Tensor:
        """Scaled logits (Q, H, W) -> divided by the temperature, if it stands before the hierarchy."""
        if self.when == "after":
            return logits
        return logits / self._temperatures(logits.softmax(dim=0))

    def on_scores(self, scores: Tensor, logits: Tensor, context) -> Tensor:
        """Class scores (C, H, W) -> sharpened to the power 1 / T and divided by their sum, if it stands after."""
        if self.when == "before":
            return scores
        total = scores.sum(dim=0, keepdim=True).clamp_min(1e-12)
        temperature = self._temperatures(scores / total)
        return (scores.clamp_min(1e-12).log() / temperature).softmax(dim=0)

    def _temperatures(self, probabilities: Tensor) -> Tensor | float:
        if self.mode == "fixed":
            return self.temperature
        entropy = normalised_entropy(probabilities)
        low, high = _quantile(entropy, self.lower), _quantile(entropy, self.upper)
        position = ((entropy - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
        smooth = position * position * (3 - 2 * position)
        return self.hot + (self.cold - self.hot) * smooth


def normalised_entropy(probabilities: Tensor) -> Tensor:
    """Entropy of (C, H, W) probabilities over log C: (H, W) in [0, 1]."""
    entropy = -(probabilities * probabilities.clamp_min(1e-12).log()).sum(dim=0)
    return entropy / max(float(np.log(len(probabilities))), 1e-12)


def _quantile(values: Tensor, q: float) -> Tensor:
    ordered = values.flatten().sort().values  # torch.quantile refuses more than 16 million values
    return ordered[min(int(q * len(ordered)), len(ordered) - 1)]


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature that makes scaled logits (C, N) most likely for labels (N,) long: one number for all pixels.

    Minimises the negative log likelihood over T in [0.02, 50] (Guo et al., 2017).
    """
    if logits.ndim != 2 or logits.shape[1] != len(labels) or not len(labels):
        raise RecipeError(
            f"fit_temperature: logits {tuple(logits.shape)} and labels {tuple(labels.shape)} do not fit (C, N), (N,)"
        )

    def loss(log_temperature: float) -> float:
        scaled = (logits / float(np.exp(log_temperature))).T
        return float(torch.nn.functional.cross_entropy(scaled, labels))

    return float(
        np.exp(
            scipy.optimize.minimize_scalar(
                loss, bounds=(np.log(0.02), np.log(50)), method="bounded"
            ).x
        )
    )
