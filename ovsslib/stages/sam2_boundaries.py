"""SAM 2 for boundaries (the thesis's outlook): components of the label map prompt it, answers that agree are taken.

Source: thesis, chapter on further work, which names SAM 2 prompted by the label map and gives no procedure; the one here
is this project's.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import scipy  # its parts load when first used
import torch
import torch.nn.functional as F

from ovsslib.clip.backbone import Backbone
from ovsslib.errors import RecipeError
from ovsslib.guides.prompts import load_prompter
from ovsslib.recipe import stage
from ovsslib.stages.contexts import ImageContext
from ovsslib.stages.prompting import FRAME, LOW, Predict, fitted, full_size, regions_of_class

HINT = 4.0  # logit of a component's pixels in a mask prompt


@stage(
    "sam2_boundaries",
    point="labels",
    order=80,
    summary="components of the label map prompt SAM 2; masks that agree with them settle their borders",
)
@dataclass(frozen=True)
class Sam2BoundariesSettings:
    """Every component of every class prompts a segmenter by its innermost pixel, its box and itself; where the answer
    agrees, it is the component's new outline.

    Answers are painted from the least to the most agreeing, so the best wins where two meet; a component's pixels that
    no answer claims keep their label.

    Attributes:
        prompter: the segmenter (`ovsslib.guides.prompts.NAMES`), "sam2" with its weights at hand; a mask proposer stands
            in its place where there are none.
        least_area: share of the picture that a component must have to be asked for.
        agreement: intersection over union of component and answer, from which the answer is taken.
        least_iou: predicted by the segmenter itself, from which the answer is taken.
        hint: give the component itself as a mask prompt too, beside point and box.
        most: components that are asked for in a picture, the largest first.
    """

    version: ClassVar[int] = 1

    prompter: str = "felzenszwalb"
    least_area: float = 0.001
    agreement: float = 0.7
    least_iou: float = 0.5
    hint: bool = True
    most: int = 64

    def __post_init__(self):
        for name in ("least_area", "least_iou"):
            if not 0 <= getattr(self, name) < 1:
                raise RecipeError(
                    f"sam2_boundaries.{name}={getattr(self, name)}: must lie in [0, 1)"
                )
        if not 0 < self.agreement <= 1:
            raise RecipeError(f"sam2_boundaries.agreement={self.agreement}: must lie in (0, 1]")
        if self.most < 1:
            raise RecipeError(f"sam2_boundaries.most={self.most}: must be 1 or more")

    def check(self, backbone: Backbone) -> None:
        """Open the segmenter before any work. Raises RecipeError, ModelError, MissingPackageError."""
        load_prompter(self.prompter, str(backbone.device))

    def networks(self, backbone: Backbone) -> dict[str, str]:
        """What tells the segmenter's answers from others'."""
        prompter = load_prompter(self.prompter, str(backbone.device))
        return {prompter.name: prompter.identity}

    def on_labels(self, labels: np.ndarray, context: ImageContext) -> np.ndarray:
        """Label map (H, W) int32 -> the same with borders of the segmenter's masks."""
        prompter = load_prompter(self.prompter, str(context.backbone.device))
        look = prompter.look(context.image)
        return outlined(
            labels,
            lambda points, boxes, mask: prompter.answer(look, points, boxes, mask),
            self,
            prompter.square,
        )


@dataclass(frozen=True)
class Component:
    """A connected region of one class.

    Attributes:
        label: its class. mask: (h, w) bool inside its box. box: left, top, right, bottom, indices of its outermost pixels.
        point: x, y of its innermost pixel. area: pixels.
    """

    label: int
    mask: np.ndarray
    box: tuple[int, int, int, int]
    point: tuple[int, int]
    area: int


def components(labels: np.ndarray, least: int, most: int) -> list[Component]:
    """Connected regions (8 neighbours) of all classes with `least` pixels or more, the `most` largest, largest first.

    A region's point is the pixel that lies deepest in it.
    """
    candidates = []
    for label in np.unique(labels):
        regions = regions_of_class(labels == label, np.zeros(labels.shape, np.float32), least)
        for number, box, area in zip(
            regions.chosen, regions.boxes.astype(int), regions.areas, strict=True
        ):
            left, top, right, bottom = (int(side) for side in box)
            mask = regions.numbers[top : bottom + 1, left : right + 1] == number
            candidates.append((int(area), int(label), mask, (left, top, right, bottom)))
    candidates.sort(key=lambda candidate: (-candidate[0], candidate[1], candidate[3]))
    result = []
    for area, label, mask, box in candidates[:most]:
        depth = scipy.ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
        row, column = np.unravel_index(int(depth.argmax()), depth.shape)
        point = (box[0] + int(column), box[1] + int(row))
        result.append(Component(label, mask, box, point, area))
    return result


def outlined(
    labels: np.ndarray, predict: Predict, settings: Sam2BoundariesSettings, square: bool
) -> np.ndarray:
    """Label map (H, W) int32 with the outlines of the answers that agree.

    Args:
        predict: the segmenter, with this picture before it; see `ovsslib.stages.prompting.Predict`.
        square: whether both sides of the picture fill the frame, or the longer one.
    """
    size = tuple(labels.shape)
    rows, columns = fitted(size, FRAME, square)
    scale = torch.tensor([columns / size[1], rows / size[0]])
    least = max(1, int(np.ceil(settings.least_area * labels.size)))
    answers: list[tuple[float, int, np.ndarray]] = []
    for component in components(labels, least, settings.most):
        hint = _hint(component, size, square) if settings.hint else None
        points = torch.tensor([component.point]) * scale
        boxes = torch.tensor([component.box]) * scale.repeat(2)
        logits, iou = predict(points, boxes, hint)
        if float(iou[0]) < settings.least_iou:
            continue
        answer = full_size(logits, size, square)[0].numpy() > 0
        left, top, right, bottom = component.box
        shared = int((answer[top : bottom + 1, left : right + 1] & component.mask).sum())
        agreement = shared / max(component.area + int(answer.sum()) - shared, 1)
        if agreement >= settings.agreement:
            answers.append((agreement, component.label, np.packbits(answer)))
    out = labels.copy()
    for _, label, packed in sorted(answers, key=lambda answer: answer[0]):
        out[np.unpackbits(packed, count=labels.size).reshape(size).astype(bool)] = label
    return out


def _hint(component: Component, size: tuple[int, int], square: bool) -> torch.Tensor:
    """Mask prompt (256, 256) of a component: 4 inside, -4 outside, 0 where the frame has no picture."""
    prompt = torch.full(size, -HINT)
    left, top, right, bottom = component.box
    prompt[top : bottom + 1, left : right + 1] = torch.where(
        torch.from_numpy(component.mask), HINT, -HINT
    )
    fit = fitted(size, LOW, square)
    small = F.interpolate(prompt[None, None], size=fit, mode="bilinear", antialias=True)[0, 0]
    return F.pad(small, (0, LOW - fit[1], 0, LOW - fit[0]))
