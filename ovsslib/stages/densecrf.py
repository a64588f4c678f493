"""DenseCRF as a stage: class probabilities follow the photo's edges. The work is done in `fully_connected.py`."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ovsslib.recipe import stage
from ovsslib.stages.fully_connected import (
    PARAMETER_SETS,
    CRFParameters,
    check_values,
    crf_parameters,
    densecrf,
    labels_that_matter,
    mean_field,
)

__all__ = [
    "PARAMETER_SETS", "CRFParameters", "DenseCRF", "densecrf", "labels_that_matter", "mean_field",
]  # fmt: skip


@stage(
    "densecrf",
    point="refine",
    summary="probabilities follow the photo's edges (DenseCRF)",
    order=90,
)
@dataclass(frozen=True)
class DenseCRF:
    """Settings of DenseCRF: a parameter set by name, single overrides (None keeps the set's
    value).
    """

    version: ClassVar[int] = 1
    parameters: str = "standard"
    smoothness_weight: float | None = None
    smoothness_xy: float | None = None
    appearance_weight: float | None = None
    appearance_xy: float | None = None
    appearance_rgb: float | None = None
    iterations: int | None = None
    scale: float = 1.0
    tolerance: float = 5e-4

    def __post_init__(self) -> None:
        check_values(self.resolved(), self.scale, self.tolerance)

    def resolved(self) -> CRFParameters:
        """The named set with the overrides put in."""
        base = crf_parameters(self.parameters)
        values = {}
        for name in CRFParameters.__dataclass_fields__:
            override = getattr(self, name)
            values[name] = getattr(base, name) if override is None else override
        return CRFParameters(**values)

    def inert(self, recipe: object) -> str | None:
        """No iteration or no weight changes nothing."""
        chosen = self.resolved()
        if self.scale < 1:  # the smaller picture and back smooths by itself
            return None
        if chosen.iterations == 0:
            return "iterations is 0"
        weightless = chosen.smoothness_weight == 0 and chosen.appearance_weight == 0
        return "both weights are 0" if weightless else None

    def on_probabilities(self, probabilities: Tensor, context: Any) -> Tensor:
        """(C, H, W) probabilities -> refined, same device and type; `context.image` is (H, W, 3)
        uint8.
        """
        refined = densecrf(
            context.image, probabilities, self.resolved(), self.scale, self.tolerance
        )
        return torch.from_numpy(refined).to(probabilities)
