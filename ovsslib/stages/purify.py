"""FreeCP: class maps refined along attention, redundant and ambiguous classes taken out (Chen et al., ICCV 2025).

Three steps on the scores of one window: spread every class's probability along the affinity of patches inside boxes
around its peaks; drop classes whose map the spreading changes beyond recognition (redundancy); among classes that
claim the same patches keep the ones that small crops of the picture vote for (ambiguity).
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import scipy  # its parts load when first used
import torch
import torch.nn.functional as F
from torch import Tensor

from ovsslib.clip.backbone import Backbone
from ovsslib.errors import RecipeError
from ovsslib.recipe import stage
from ovsslib.stages.affinity import (
    box_mask,
    component_boxes,
    mean_attention,
    transition_matrix,
    unit_range,
)
from ovsslib.stages.contexts import WindowContext
from ovsslib.text.auxiliary import auxiliary_texts
from ovsslib.text.features import TextFeatures, encode_texts
from ovsslib.text.prompts import TextSettings
from ovsslib.text.vocabulary import Vocabulary

if TYPE_CHECKING:
    from ovsslib.recipe import Recipe

CROP = 112  # side in pixels to which a voting crop is resized

Box = tuple[int, int, int, int]
"""(top, bottom, left, right) on the grid of patches, ends exclusive."""


@stage(
    "purify",
    point="similarity",
    order=70,
    summary="class maps refined along attention, redundant and ambiguous classes dropped (FreeCP)",
)
@dataclass(frozen=True)
class PurifySettings:
    """Cosines of a window become maps in [0, 1] of the classes that are there; the maps of all others are 0.

    The stage `plain_scores` turns the stitched maps into labels as released (no softmax, background = 1 - maximum).
    Behind a softmax the background wins only where no class is left.

    Attributes:
        redundancy: a class is dropped unless its measure of :func:`redundancy` is above this (released: 0.05 to 0.15,
            by data set).
        ambiguity: soft IoU from which two classes claim the same patches (released: 0.7 or 0.8).
        box_threshold: share of a map's largest value that a box must exceed.
        logit_scale: factor of the cosines before the softmax over classes (CLIP's own 100).
        background_rows: how many of the first rows are background prompts; null: those of the background class.
        votes: text that the crops of ambiguous classes are compared with: the classes' own "words", or their
            "definitions" or "synonyms" where this project ships some (the authors' sentences are not shipped).
    """

    version: ClassVar[int] = 1
    capabilities: ClassVar[frozenset[str]] = frozenset({"asks_clip_again"})

    redundancy: float = 0.15
    ambiguity: float = 0.8
    box_threshold: float = 0.4
    logit_scale: float = 100.0
    background_rows: int | None = None
    votes: Literal["words", "definitions", "synonyms"] = "words"

    def __post_init__(self):
        if self.logit_scale <= 0:
            raise RecipeError(f"purify.logit_scale={self.logit_scale}: must be above 0")
        if not 0 <= self.redundancy <= 1:
            raise RecipeError(f"purify.redundancy={self.redundancy}: must lie between 0 and 1")
        for name in ("ambiguity", "box_threshold"):
            if not 0 < getattr(self, name) <= 1:
                raise RecipeError(f"purify.{name}={getattr(self, name)}: must lie in (0, 1]")
        if self.background_rows is not None and self.background_rows < 0:
            raise RecipeError(f"purify.background_rows={self.background_rows}: must be 0 or more")

    def refuse(self, recipe: "Recipe") -> str | None:
        """Why these settings cannot work with the rest of a recipe."""
        if recipe.has("one_map"):
            return "it works window by window, and another stage gives one map of the whole picture"
        if recipe.stages_with("picture_logits"):
            return "another stage makes the picture's logits by itself, so there are no windows to purify"
        if [s for s in recipe.stages_with("group_features") if s is not self]:
            return "it brings text rows of its own for the votes, and so does another stage; turn one of them off"
        return None

    def taps(self, layers: int) -> set[int]:
        """0-based blocks whose projections are needed: all but the last."""
        return set(range(layers - 1))

    def group_features(
        self, backbone: Backbone, text: TextFeatures, settings: TextSettings
    ) -> Tensor:
        """Unit rows (C', D) that crops are compared with, one per class that is not the background."""
        rows = class_rows(
            text.features.float(), class_members(text.query_class, len(text.vocabulary))
        )
        if self.votes != "words":
            sentence_settings = dataclasses.replace(settings, templates=("{}",), truncate=True)
            sentences = self._texts_of_votes(text.vocabulary)
            if sentences:
                rows[list(sentences)] = encode_texts(
                    backbone, list(sentences.values()), sentence_settings
                ).to(rows)
        keep = [c for c in range(len(rows)) if c != text.vocabulary.background]
        return rows[keep]

    def _texts_of_votes(self, vocabulary: Vocabulary) -> dict[int, str]:
        """Class -> its text, for those that have one."""
        if self.votes == "words":
            return {}
        texts = auxiliary_texts(vocabulary, self.votes, skip_missing=True)
        return {index: sentence for index, sentence in enumerate(texts) if sentence}

    def sentences(self, vocabulary: Vocabulary, settings: TextSettings) -> dict[str, list[str]]:
        """Of the votes, where they are not the words themselves."""
        return {"votes": list(dict.fromkeys(self._texts_of_votes(vocabulary).values()))}

    def on_similarity(self, logits: Tensor, context: WindowContext) -> Tensor:
        """Cosines (B, Q [+ C'], h, w) -> maps (B, Q, h0, w0) in [0, 1] on the tower's grid, background rows 0."""
        grid = context.trunk.grid
        classes = self._classes(context)
        logits = logits[:, : context.queries].float()
        if tuple(logits.shape[-2:]) != tuple(grid):
            logits = F.interpolate(logits, size=grid, mode="bilinear", antialias=True)
        affinity = mean_attention(
            [context.trunk.taps[index] for index in range(context.backbone.layers - 1)],
            context.backbone.scale,
        )
        out = torch.zeros_like(logits)
        for index, cosines in enumerate(logits):
            maps = self._purified(cosines, affinity[index], classes, context, index)
            for members, class_map in zip(classes.members, maps, strict=True):
                out[index, members] = class_map
        return out

    def _classes(self, context: WindowContext) -> "Classes":
        """Which rows are background, which belong to which class, and what crops are compared with."""
        assert context.text is not None  # a stage at "similarity" runs when words are known
        text, queries = context.text.float(), context.queries
        index = context.query_class
        index = torch.arange(queries) if index is None else index.cpu()
        count = int(index.max()) + 1
        votes, first = text[queries:], self.background_rows
        if first is None:
            # the vote rows leave the background out, so their number tells whether there is one
            first = int((index == 0).sum()) if len(votes) and len(votes) == count - 1 else 0
        if first >= queries:
            raise RecipeError(
                f"purify.background_rows={self.background_rows}: all {queries} rows would be background; give "
                "fewer, or null"
            )
        members = [m for m in class_members(index[first:], count, first) if m]
        rows = class_rows(text, members)
        return Classes(first, members, text, votes if len(votes) == len(members) else rows)

    def _purified(
        self,
        cosines: Tensor,
        affinity: Tensor,
        classes: "Classes",
        context: WindowContext,
        window: int,
    ) -> Tensor:
        """Maps (C', h, w) of one window's cosines (Q, h, w)."""
        parts = [cosines[: classes.background], classes.merged(cosines)]
        p = (torch.cat(parts) * self.logit_scale).softmax(dim=0)
        spread = (p - p.min()) / (p.max() - p.min()).clamp_min(1e-12)
        p, spread = p[classes.background :], spread[classes.background :]
        refined = refine_maps(spread, transition_matrix(affinity), self.box_threshold)
        kept = torch.nonzero(redundancy(p, refined) > self.redundancy)[:, 0].tolist()
        if len(kept) > 1:
            overlap = soft_iou(refined[kept])
            groups = [[kept[i] for i in g] for g in ambiguous_groups(overlap, self.ambiguity)]

            def vote(box: Box, group: list[int]) -> int:
                crop = crop_of(context.window[window], box, context.backbone.patch_size)
                token = F.normalize(context.backbone.encode_image(crop), dim=-1)
                return group[int((classes.votes[group] @ token[0]).argmax())]

            kept = resolve_ambiguous(refined, groups, self.box_threshold, vote)
        mask = torch.zeros(len(refined), 1, 1, device=refined.device)
        mask[kept] = 1
        return refined * mask


@dataclass(frozen=True)
class Classes:
    """Rows of a list of words as FreeCP sees them.

    Attributes:
        background: number of background rows, which come first.
        members: per class its rows. votes: (C', D) unit rows that crops are compared with.
        text: (Q, D) rows of the words (further ones may follow).
    """

    background: int
    members: list[list[int]]
    text: Tensor
    votes: Tensor

    def merged(self, cosines: Tensor) -> Tensor:
        """Cosines (Q, h, w) with the unit mean of every class's rows: (C', h, w).

        The released name files have one row per class; several are merged before the softmax.
        """
        maps = []
        for members in self.members:
            mean = cosines[members].mean(dim=0)
            maps.append(mean / self.text[members].mean(dim=0).norm() if len(members) > 1 else mean)
        return torch.stack(maps)


def class_members(query_class: Tensor, classes: int, first: int = 0) -> list[list[int]]:
    """Rows of every class; `first` is added to the row numbers."""
    index = query_class.cpu()
    return [(torch.nonzero(index == c)[:, 0] + first).tolist() for c in range(classes)]


def class_rows(text: Tensor, members: list[list[int]]) -> Tensor:
    """Unit mean of the rows of every class: (C, D)."""
    return torch.stack([F.normalize(text[rows].mean(dim=0), dim=-1) for rows in members])


def refine_maps(probabilities: Tensor, transition: Tensor, threshold: float) -> Tensor:
    """Step 1: each class's map, cut by boxes around its peaks, spread along the affinity.

    Args:
        probabilities: (K, h, w) min-max normalised over the whole array.
        transition: (N, N), N = h w.
        threshold: of the boxes, as a share of the map's largest value.

    Returns:
        (K, h, w) in [0, 1].
    """
    values = probabilities.cpu().numpy()
    masks = torch.from_numpy(np.stack([box_mask(class_map, threshold) for class_map in values]))
    cut = (probabilities * masks.to(probabilities.device)).flatten(1)
    return unit_range((transition @ cut.T).T).unflatten(1, probabilities.shape[1:])


def redundancy(probabilities: Tensor, refined: Tensor) -> Tensor:
    """Step 2: r_c = sum P_c R_c / (sum P_c + sum R_c + 1e-8) of maps (C, h, w): (C,).

    The released code's measure: the intersection is not taken off the denominator.
    """
    intersection = (probabilities * refined).flatten(1).sum(1)
    return intersection / (probabilities.flatten(1).sum(1) + refined.flatten(1).sum(1) + 1e-8)


def soft_iou(maps: Tensor) -> Tensor:
    """sum min(R_a, R_b) / sum max(R_a, R_b) for all pairs of maps (K, h, w): (K, K)."""
    flat = maps.flatten(1)
    # one class against all at a time: K maps at once, not K x K
    rows = [
        torch.minimum(class_map, flat).sum(1) / torch.maximum(class_map, flat).sum(1)
        for class_map in flat
    ]
    return torch.stack(rows)


def ambiguous_groups(overlap: Tensor, threshold: float) -> list[list[int]]:
    """Connected components of the classes whose soft IoU (K, K) is >= the threshold, by first member."""
    adjacent = scipy.sparse.csr_matrix((overlap >= threshold).cpu().numpy())
    count, label = scipy.sparse.csgraph.connected_components(adjacent, directed=False)
    return [np.flatnonzero(label == group).tolist() for group in range(count)]


def resolve_ambiguous(
    refined: Tensor,
    groups: list[list[int]],
    threshold: float,
    vote: Callable[[tuple[int, int, int, int], list[int]], int],
) -> list[int]:
    """Step 3: the classes that stay.

    Args:
        refined: (C, h, w) maps.
        groups: of class indices; a group of one stays.
        threshold: of the boxes around the peaks of a group's mean map.
        vote: function of a box (top, bottom, left, right) on the grid and a group, giving the class that fits the
            picture there best. An empty box keeps the whole group.
    """
    stay: set[int] = set()
    for group in groups:
        if len(group) == 1:
            stay.update(group)
            continue
        fused = refined[group].mean(dim=0).cpu().numpy()
        for box in component_boxes(fused, threshold, holes=True):
            empty = box[0] >= box[1] or box[2] >= box[3]
            stay.update(group if empty else [vote(box, group)])
    return sorted(stay)


def crop_of(pixels: Tensor, box: tuple[int, int, int, int], patch_size: int) -> Tensor:
    """The part of a window (3, H, W) under a box of patches, resized bilinearly: (1, 3, 112, 112)."""
    top, bottom, left, right = (edge * patch_size for edge in box)
    crop = pixels[None, :, top:bottom, left:right].float()
    return F.interpolate(crop, size=(CROP, CROP), mode="bilinear", align_corners=False)
