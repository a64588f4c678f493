"""Semantic feedback refinement of ResCLIP, as its released code computes it.

A first pass of the last block is segmented; patches of one label that a straight line connects within the label
attract each other in the attention scores of a second pass. The thesis's step of the same name is `feedback`.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ovsslib.errors import RecipeError
from ovsslib.recipe import stage
from ovsslib.stages.contexts import Adjust, AttentionContext
from ovsslib.stages.pixel_adaptive import Refinement

_STRIP = 1 << 19  # values whose softmax is taken at a time: they stay in the processor's cache


@stage(
    "sfr",
    point="attention",
    order=80,
    summary="feed a first segmentation back into the attention (ResCLIP)",
)
@dataclass(frozen=True)
class SfrSettings:
    """S <- tau ((1 - lam) S + lam S_hat) for every score matrix S of the last block.

    Attributes:
        tau, lam: mixing factors of the released configurations.
        threshold: pixels whose best query probability is below it get query 0 (`temp_thd`).
        logit_scale: factor of the cosines before the softmax of the first pass.
        path_test: weigh pairs of patches by whether the straight line between them stays in the label.
        released_path_test: the released test looks at the first d + 1 of dmax + 1 samples only, that is at the
            first d / dmax of the line (a bug kept by default); False looks at the whole line.
        std: standard deviation of the 1-D smoothing along the flattened patches.
        pamr_iterations, pamr_dilations: PAMR on the first pass's logits; 0 iterations turn it off.
    """

    version: ClassVar[int] = 1
    tau: float = 1.8
    lam: float = 0.7
    threshold: float = 0.25
    logit_scale: float = 40.0
    path_test: bool = True
    released_path_test: bool = True
    std: float = 5.0
    pamr_iterations: int = 10
    pamr_dilations: tuple[int, ...] = (8, 16)

    def __post_init__(self):
        if not 0 <= self.lam <= 1:
            raise RecipeError(f"sfr.lam={self.lam}: must lie between 0 and 1")
        for name in ("tau", "std", "logit_scale"):
            if getattr(self, name) <= 0:
                raise RecipeError(f"sfr.{name}={getattr(self, name)}: must be above 0")

    def refuse(self, recipe) -> str | None:
        """Why these settings cannot work with the rest of a recipe."""
        if recipe["attention"].is_identity:
            return "attention.terms='value' has no scores that could take the feedback"
        return None

    def inert(self, recipe) -> str | dict[str, str] | None:
        """Why nothing changes, or the fields that change nothing."""
        if self.lam == 0 and self.tau == 1:
            return "lam is 0 and tau is 1"
        if not self.path_test and not self.released_path_test:
            return {"released_path_test": "path_test is off"}
        return None

    def feed_back(self, logits: Tensor, context: AttentionContext) -> Adjust:
        """The adjustment of score matrices that a first segmentation asks for.

        Args:
            logits: (B, Q, h, w) cosines of the first pass.
            context: its `window` (B, 3, H, W) is what PAMR looks at.

        Returns:
            Function of a score matrix (B, heads, T, T) for `AttentionSettings.weights`.
        """
        matrices = []
        for cosines, picture in zip(logits, context.window, strict=True):
            labels = self._first_labels(cosines, picture, context.backbone.patch_size)
            matrix = feedback_matrix(labels, self.std, self.path_test, self.released_path_test)
            matrices.append(matrix / matrix.max())
        target = torch.stack(matrices)[:, None]

        def adjust(scores: Tensor) -> Tensor:
            mixed = (1 - self.lam) * scores + self.lam * target.to(scores)
            return self.tau * mixed

        return adjust

    def _first_labels(self, cosines: Tensor, picture: Tensor, patch: int) -> Tensor:
        """Labels (h', w') of the patches of a window: cosines (Q, h, w), picture (3, H, W).

        Logits of the window's size are made a few queries at a time, their softmax a few rows of patches at a time.
        """
        height, width = picture.shape[-2:]
        refine = Refinement(picture, self.pamr_iterations, self.pamr_dilations)
        parts = []  # (H, W, some queries): a pixel's values side by side, which is faster throughout
        for some in (self.logit_scale * cosines).split(refine.together(len(cosines))):
            some = some[None].contiguous(memory_format=torch.channels_last)
            full = F.interpolate(some, size=(height, width), mode="bilinear")[0]
            parts.append(refine(full).permute(1, 2, 0))
        step = patch * max(1, _STRIP // (patch * width * len(cosines)))
        if picture.is_cuda:
            step = height
        labels = []
        for top in range(0, height - height % patch, step):
            logits = torch.cat([part[top : top + step] for part in parts], dim=-1)
            probabilities = logits.softmax(-1).permute(2, 0, 1)
            labels.append(patch_labels(probabilities, self.threshold, patch))
        return torch.cat(labels)


def patch_labels(probabilities: Tensor, threshold: float, patch: int) -> Tensor:
    """Most frequent label of each patch's pixels: (Q, H, W) -> (h, w) long.

    Pixels whose best probability is below `threshold` count as label 0; ties go to the smallest label.
    """
    best, labels = probabilities.max(dim=0)
    labels = labels.masked_fill(best < threshold, 0)
    h, w, queries = labels.shape[0] // patch, labels.shape[1] // patch, len(probabilities)
    cells = labels[: h * patch, : w * patch].reshape(h, patch, w, patch).permute(0, 2, 1, 3)
    votes = cells.flatten(2).flatten(0, 1)
    first = queries * torch.arange(h * w, device=votes.device)  # a row of counts for each patch
    counts = torch.bincount((votes + first[:, None]).flatten(), minlength=h * w * queries)
    return counts.reshape(h, w, queries).argmax(dim=2)


def path_decay(labels: Tensor, released: bool) -> Tensor:
    """Weight h of every pair of patches of one label, 0 for others: (h, w) labels -> (P, P) float32.

    1 if the straight line between the two stays in the label, else exp(-d / dmax) with the Chebyshev distance d.
    Holds the lines of one length between patches of one label at a time.
    """
    (h, w), flat = labels.shape, labels.flatten()
    patches = torch.arange(h * w, device=labels.device)
    row, column = patches // w, patches % w
    first, second = (flat[:, None] == flat[None]).nonzero().unbind(1)
    distance = torch.maximum(
        (row[first] - row[second]).abs(), (column[first] - column[second]).abs()
    )
    longest = max(h - 1, w - 1, 1)
    rows, columns = (between(side, longest).to(labels.device) for side in (h, w))
    inside = torch.ones_like(first, dtype=torch.bool)
    for d in range(longest + 1):
        pairs = (distance == d).nonzero().flatten()
        start, end = first[pairs], second[pairs]
        samples = d + 1 if released else longest + 1
        line = w * rows[:, :samples].index_select(0, row[start] * h + row[end])
        line += columns[:, :samples].index_select(0, column[start] * w + column[end])
        labels_on_line = flat.index_select(0, line.flatten()).view(line.shape)
        inside[pairs] = (labels_on_line == flat[start, None]).all(dim=1)
    decay = torch.exp(-distance.float() / longest)
    out = torch.zeros(len(flat), len(flat), device=labels.device)
    out[first, second] = torch.where(inside, 1.0, decay)
    return out


def between(side: int, longest: int) -> Tensor:
    """Rows (or columns) on the way from each of `side` to each: (side * side, longest + 1 samples) long."""
    t = torch.linspace(0, 1, longest + 1, dtype=torch.float64).float()
    start, end = torch.arange(side)[:, None, None], torch.arange(side)[:, None]
    # torch.round rounds halves to even, as the released code does
    return torch.round(start + t * (end - start)).long().flatten(0, 1)


def feedback_matrix(labels: Tensor, std: float, path_test: bool, released: bool) -> Tensor:
    """S_hat before its division by the global maximum: (h, w) labels -> (1 + P, 1 + P) float32.

    Pairs of one label count 1 if the path test passes, else exp(-d / dmax) with the Chebyshev distance d; rows
    are smoothed along the flattened key index, as released (the kernel crosses the ends of grid rows), and
    divided by their sums. Zero for the class token.
    """
    flat = labels.flatten()
    if path_test:
        matrix = path_decay(labels, released)
    else:
        matrix = (flat[:, None] == flat[None]).float()
    length = min(int(6 * std + 1), len(flat))
    length += 1 - length % 2  # odd, as released: a grid of fewer patches gets a shorter kernel
    offsets = torch.arange(length) - length // 2
    kernel = torch.exp(-offsets.float().square() / (2 * std**2))
    kernel = (kernel / kernel.sum()).to(matrix)
    matrix = F.conv1d(matrix[:, None], kernel[None, None], padding=length // 2)[:, 0].relu()
    matrix = matrix / (matrix.sum(dim=1, keepdim=True) + 1e-8)
    return F.pad(matrix, (1, 0, 1, 0))
