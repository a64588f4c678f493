"""Trident's last step for any recipe: every region of the label map prompts a segmenter (Shi et al., ICCV 2025)."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from ovsslib.clip.backbone import Backbone
from ovsslib.errors import RecipeError
from ovsslib.guides.prompts import load_prompter
from ovsslib.recipe import stage
from ovsslib.stages.contexts import ImageContext
from ovsslib.stages.prompting import refined_by_prompts


@stage(
    "prompt_refinement",
    point="labels",
    order=70,
    summary="regions of the label map prompt a segmenter, whose answers carry their scores (Trident)",
)
@dataclass(frozen=True)
class PromptRefinementSettings:
    """Labels and scores after every region of every class has been asked for; see `refined_by_prompts`.

    Attributes:
        prompter: the segmenter (`ovsslib.guides.prompts.NAMES`): "sam" as released, "sam2", ..., or a mask proposer in
            its place.
        least_score: of a pixel's best class; pixels below it belong to no region (`coarse_thresh`).
        least_area: of a region, in pixels of half the photograph's size.
        least_iou: predicted by the segmenter, above which an answer is taken.
    """

    version: ClassVar[int] = 1
    capabilities: ClassVar[frozenset[str]] = frozenset({"reads_scores", "reads_probabilities"})

    prompter: str = "felzenszwalb"
    least_score: float = 0.2
    least_area: int = 225
    least_iou: float = 0.8

    def __post_init__(self):
        for name in ("least_score", "least_iou"):
            if not 0 <= getattr(self, name) < 1:
                raise RecipeError(
                    f"prompt_refinement.{name}={getattr(self, name)}: must lie in [0, 1)"
                )
        if self.least_area < 1:
            raise RecipeError(
                f"prompt_refinement.least_area={self.least_area}: must be 1 or more pixels"
            )

    def check(self, backbone: Backbone) -> None:
        """Open the segmenter before any work. Raises RecipeError, ModelError, MissingPackageError."""
        load_prompter(self.prompter, str(backbone.device))

    def networks(self, backbone: Backbone) -> dict[str, str]:
        """What tells the segmenter's answers from others'."""
        prompter = load_prompter(self.prompter, str(backbone.device))
        return {prompter.name: prompter.identity}

    def on_labels(self, labels: np.ndarray, context: ImageContext) -> np.ndarray:
        """Label map (H, W) int32 -> the same, refined; `context.scores` become those that go with it.

        Pixels that no answer covers keep their scores beside their labels; the released code leaves 0 there.
        """
        assert context.scores is not None
        before = context.scores
        prompter = load_prompter(self.prompter, str(context.backbone.device))
        look = prompter.look(context.image)
        labels, scores = refined_by_prompts(
            labels,
            before,
            lambda points, boxes, mask: prompter.answer(look, points, boxes, mask),
            self.least_score,
            self.least_area,
            self.least_iou,
            prompter.square,
        )
        context.scores = torch.where(scores.sum(dim=0) > 0, scores, before)
        return labels
