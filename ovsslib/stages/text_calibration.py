"""PTC: the confident patches of a picture move the text rows a little before the picture is segmented.

"Perceptual anchoring" of Ma et al. (arXiv 2608.03991). Provisional: the authors have withdrawn the file that this was
read from until the paper is accepted, so the released version may differ.
"""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ovsslib.errors import RecipeError
from ovsslib.recipe import stage
from ovsslib.stages.contexts import PictureTextContext

if TYPE_CHECKING:
    from ovsslib.recipe import Recipe


@stage(
    "text_calibration",
    point="picture_text",
    order=50,
    summary="a picture's confident patches move the text rows a little (PTC, provisional)",
)
@dataclass(frozen=True)
class TextCalibrationSettings:
    """T_q <- norm((1 - mu_c) T_q + mu_c g_c) with a prototype g_c of class c's most confident patches.

    Attributes:
        mu: largest share of the prototype.
        seed_ratio: share of a class's patches that count, those of the largest margin over the second class.
        min_seeds: a class with fewer patches does not move, and fewer never count (released for the 8-pixel patches
            of DINO; a quarter of it fits 16-pixel patches).
        crop, stride: windows in pixels that the evidence is taken from, 0 takes the picture whole. Where they are the
            windows of the segmentation, their features are used again.
        pad_to: a window is padded with zeros, evenly, to a multiple of this.
        border: patches left out along a window's sides; null: 16 pixels' worth, at most 2.
        skip_background: class 0 does not move.
        logit_scale: factor of the cosines in the margins.
        few_regions, few_classes: with more windows or more classes than these, evidence from two windows is needed.
    """

    version: ClassVar[int] = 1

    mu: float = 0.10
    seed_ratio: float = 0.10
    min_seeds: int = 40
    crop: int = 224
    stride: int = 112
    pad_to: int = 16
    border: int | None = 0
    skip_background: bool = False
    logit_scale: float = 40.0
    few_regions: int = 16
    few_classes: int = 30

    def __post_init__(self):
        for name in ("mu", "seed_ratio"):
            if not 0 <= getattr(self, name) <= 1:
                raise RecipeError(
                    f"text_calibration.{name}={getattr(self, name)}: must lie between 0 and 1"
                )
        if self.min_seeds < 1:
            raise RecipeError(f"text_calibration.min_seeds={self.min_seeds}: must be 1 or more")
        if self.logit_scale <= 0:
            raise RecipeError(f"text_calibration.logit_scale={self.logit_scale}: must be above 0")
        if self.crop < 0 or (self.crop and not 0 < self.stride <= self.crop):
            raise RecipeError(
                f"text_calibration.crop={self.crop}, text_calibration.stride={self.stride}: use crop 0 (whole "
                "picture), or a stride from 1 to the crop"
            )
        for name in ("pad_to", "border", "few_regions", "few_classes"):
            if (getattr(self, name) or 0) < 0:
                raise RecipeError(
                    f"text_calibration.{name}={getattr(self, name)}: must be 0 or more"
                )

    def refuse(self, recipe: "Recipe") -> str | None:
        """Why these settings cannot work with the rest of a recipe."""
        if recipe.stages_with("picture_logits"):
            return "another stage makes the picture's logits by itself, so no text rows are compared with patches"
        if recipe.has("needs_text"):
            return (
                "another stage needs the words before the last block, and these words are only found behind it; turn "
                "one of them off"
            )
        return None

    def inert(self, recipe: "Recipe") -> str | None:
        """A share of 0 moves nothing."""
        return "mu is 0" if self.mu == 0 else None

    def on_picture_text(self, rows: Tensor, context: PictureTextContext) -> Tensor:
        """Unit rows (Q, D) -> unit rows of this picture."""
        regions = self._regions(context)
        same_regions = regions == context.grid and len(context.features) == len(regions)
        crops = None if same_regions else regions.crops(context.pixels)
        query_class = context.query_class.to(rows.device)
        classes = int(query_class.max()) + 1
        evidence = Evidence.none(classes, rows.shape[1], rows.device)
        for index in range(len(regions)):
            if crops is None:
                features = context.features[index]
            else:
                features = context.features_of(crops[index : index + 1])[0]
            patches = F.normalize(self._inside(features.float(), regions), dim=-1)
            scores = class_maximum(
                self.logit_scale * patches @ rows.float().T, query_class, classes
            )
            skip = 0 if self.skip_background else None
            evidence.add(region_evidence(patches, scores, self.min_seeds, self.seed_ratio, skip))
        few = len(regions) <= self.few_regions and classes <= self.few_classes
        least = 1 if len(regions) == 1 or few else 2
        return calibrate(rows.float(), query_class, evidence, self.mu, self.min_seeds, least).to(
            rows
        )

    def _regions(self, context: PictureTextContext) -> Any:
        """Where the windows lie that the evidence is taken from (a `WindowGrid`)."""
        height, width = context.grid.picture
        size = (min(self.crop, height), min(self.crop, width)) if self.crop else (height, width)
        pad = [-side % self.pad_to if self.pad_to else 0 for side in size]
        return replace(
            context.grid,
            tops=_starts(height, size[0], self.stride),
            lefts=_starts(width, size[1], self.stride),
            size=size,
            pad=(pad[0] // 2, pad[0] - pad[0] // 2, pad[1] // 2, pad[1] - pad[1] // 2),
        )

    def _inside(self, features: Tensor, regions: Any) -> Tensor:
        """Patches (n, D) of one window's map (D, h, w) without padding and border; the border stays if nothing else
        would."""
        top, bottom, left, right = regions.pad
        height, width = regions.size
        patch = (
            (top + height + bottom) // features.shape[1],
            (left + width + right) // features.shape[2],
        )
        rows = slice(top // patch[0], top // patch[0] + height // patch[0])
        columns = slice(left // patch[1], left // patch[1] + width // patch[1])
        inner = features[:, rows, columns]
        border = self.border
        if border is None:
            border = max(0, min(2, round(16 / min(patch))))
        h, w = inner.shape[1:]
        if 0 < 2 * border < min(h, w):
            inner = inner[:, border : h - border, border : w - border]
        return inner.flatten(1).T


def _starts(side: int, crop: int, stride: int) -> tuple[int, ...]:
    """First pixels of windows along a side; the last one is shifted inside."""
    count = math.ceil(max(side - crop, 0) / stride) + 1 if stride else 1
    return tuple(min(i * stride, side - crop) for i in range(count))


@dataclass
class Evidence:
    """What the regions of a picture say about the classes.

    Attributes:
        sums: (C, D) float32, sum over regions of the margin-weighted mean feature.
        regions: (C,) float32, number of regions with evidence.
        seeds: (C,) int64, number of patches used.
    """

    sums: Tensor
    regions: Tensor
    seeds: Tensor

    @staticmethod
    def none(classes: int, width: int, device: torch.device) -> "Evidence":
        """No evidence for any of C classes with D features."""
        return Evidence(
            torch.zeros(classes, width, device=device),
            torch.zeros(classes, device=device),
            torch.zeros(classes, dtype=torch.long, device=device),
        )

    def add(self, other: "Evidence") -> None:
        """Add a region's evidence."""
        self.sums += other.sums
        self.regions += other.regions
        self.seeds += other.seeds


def class_maximum(scores: Tensor, query_class: Tensor, classes: int) -> Tensor:
    """Scores of queries (N, Q) -> the best per class (N, C)."""
    index = query_class.to(scores.device).expand(len(scores), -1)
    empty = scores.new_full((len(scores), classes), -math.inf)
    return empty.scatter_reduce(1, index, scores, reduce="amax")


def region_evidence(
    features: Tensor, scores: Tensor, least: int, share: float, skip: int | None = None
) -> Evidence:
    """Step 3 for one region.

    Args:
        features: (N, D) unit patch features.
        scores: (N, C) scaled class scores of the original text rows.
        least: a class needs this many patches; no fewer are used.
        share: of a class's patches that are used, those of largest margin.
        skip: a class that never moves, or None.
    """
    classes = scores.shape[1]
    top = scores.topk(min(2, classes), dim=1)
    margin = top.values[:, 0] - top.values[:, 1] if classes > 1 else top.values[:, 0].clamp_min(0)
    label = top.indices[:, 0]
    evidence = Evidence.none(classes, features.shape[1], features.device)
    for class_index in range(classes):
        members = torch.nonzero(label == class_index)[:, 0]
        if class_index == skip or len(members) < least:
            continue
        count = min(len(members), max(least, math.floor(len(members) * share)))
        order = margin[members].argsort(descending=True, stable=True)[:count]
        chosen = members[order]
        weight = margin[chosen]
        if float(weight.sum()) <= 1e-6:
            continue
        evidence.sums[class_index] = (weight[:, None] * features[chosen]).sum(dim=0) / weight.sum()
        evidence.regions[class_index], evidence.seeds[class_index] = 1, count
    return evidence


def calibrate(
    text: Tensor, query_class: Tensor, evidence: Evidence, mu: float, least: int, least_regions: int
) -> Tensor:
    """Steps 4 and 5: T_q <- norm((1 - mu_c) T_q + mu_c g_c) for classes with enough evidence, (Q, D).

    g_c is the unit mean over regions, mu_c = mu min(1, log(1 + N_c) / log(1 + 10 least)).
    """
    valid = (evidence.regions >= least_regions) & (evidence.seeds >= least)
    prototype = F.normalize(evidence.sums / (evidence.regions[:, None] + 1e-6), dim=-1)
    full = math.log1p(10 * least)
    share = mu * (torch.log1p(evidence.seeds.float()) / full).clamp_max(1) * valid
    share, prototype = share[query_class, None], prototype[query_class]
    moved = F.normalize((1 - share) * text + share * prototype, dim=-1)
    return torch.where(valid[query_class, None], moved, text)
