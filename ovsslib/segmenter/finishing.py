"""Everything behind the stitching: refinement, class scores, confidences, labels. Once per picture."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ovsslib.clip.memory import check_memory
from ovsslib.recipe import Recipe
from ovsslib.segmenter.running_best import RunningBest
from ovsslib.stages.contexts import ImageContext
from ovsslib.stages.windows import Stitched, WindowGrid

STRIP = 4_000_000  # values handled at a time when a picture is finished strip by strip (float32)
QUERIES = 4_000_000  # the same when it is finished a few queries at a time
LARGE = 100_000_000
"""Logits of a picture (queries x pixels) above which confidences are made a few queries at a time.

Their last digit differs from that of a softmax over all logits at once, so smaller pictures, which are most that
results were measured on, keep the latter.
"""


@dataclass(frozen=True, eq=False)
class Finished:
    """The answer for one picture.

    Attributes:
        labels: (H, W) int32.
        scores: (C, H, W) float32 in [0, 1], if they were asked for.
        confidence: (H, W) float32, the score of each pixel's label, if it was asked for.
        margin: (H, W) float32, best score less second best, if the confidence was asked for.
    """

    labels: np.ndarray
    scores: np.ndarray | None = None
    confidence: np.ndarray | None = None
    margin: np.ndarray | None = None


def strips(height: int, values_per_row: int) -> Iterator[slice]:
    """Rows of a picture in strips of at most STRIP values."""
    step = max(1, STRIP // max(1, values_per_row))
    for start in range(0, height, step):
        yield slice(start, min(start + step, height))


def is_local(recipe: Recipe) -> bool:
    """Whether each pixel's scores depend on its own logits alone, so that strips give the whole.

    What follows may look at the label map, which is held whole: closing, the vote of masks.
    """
    return not recipe.stages_with("on_logits") and _is_local_behind_refining(recipe)


def _is_local_behind_refining(recipe: Recipe) -> bool:
    hooks = ("on_probabilities", "on_scaled_logits", "on_scores", "threshold")
    wide = any(recipe.stages_with(hook) for hook in hooks) or recipe.has("reads_scores")
    rules = recipe.stages_with("class_scores")
    alone = all("per_pixel" in getattr(rule, "capabilities", ()) for rule in rules)
    return not wide and alone and not recipe["labels"].area_threshold


def goes_by_query(recipe: Recipe, confidence: bool = False, synonyms: bool = False) -> bool:
    """Whether a recipe refines each query by itself and then takes the best, so that a running maximum is enough.

    Args:
        confidence: whether each pixel's score is wanted too. synonyms: whether a class has several queries.
    """
    refining, labels = recipe.stages_with("on_logits"), recipe["labels"]
    if not refining or not all(hasattr(settings, "on_queries") for settings in refining):
        return False
    if recipe.stages_with("class_scores") or labels.probability_threshold:
        return False
    if confidence and (labels.closing or recipe.stages_with("on_labels")):
        return False  # the confidence is that of the final labels, which need not be the best
    if confidence and synonyms and labels.merge != "probability":
        return False  # the softmax is over classes, whose maxima are known at the end
    return _is_local_behind_refining(recipe)


def finish(
    recipe: Recipe,
    stitched: Stitched,
    context: ImageContext,
    keep_scores: bool = False,
    confidence: bool = False,
) -> Finished:
    """Stitched logits -> labels, and what else was asked for, in one pass over the logits.

    Raises MemoryBudgetError where all scores must be held and do not fit.
    """
    stitched = _at_network_size(recipe, stitched, context)
    if not keep_scores and is_local(recipe):
        return _finish_by_strips(recipe, stitched, context, confidence)
    large = stitched.queries * stitched.size[0] * stitched.size[1] > LARGE
    synonyms = len(context.text) != len(context.text.vocabulary)
    if (
        not keep_scores
        and (large or not confidence)
        and goes_by_query(recipe, confidence, synonyms)
    ):
        return _finish_by_query(recipe, stitched, context, confidence)
    check_memory(stitched.queries, stitched.size, context.backbone.device)
    background = context.text.vocabulary.background
    scores = class_scores(recipe, stitched.full(), context)
    labels = recipe["labels"].labels(scores, background, _threshold(recipe, scores, context))
    context.scores = scores
    finished_labels = _after_labels(recipe, labels.cpu().numpy(), context)
    scores = context.scores
    sure = margin = None
    if confidence:
        sure, margin = _confidence(scores, finished_labels)
    return Finished(finished_labels, scores.cpu().numpy() if keep_scores else None, sure, margin)


def _at_network_size(recipe: Recipe, stitched: Stitched, context: ImageContext) -> Stitched:
    """Logits changed at the network picture's size, if a stage asks for it, then resized bilinearly."""
    stages = recipe.stages_with("on_network_logits")
    if not stages:
        return stitched
    size = (context.network_picture.shape[-2], context.network_picture.shape[-1])
    check_memory(stitched.queries, size, context.backbone.device)
    logits = stitched.at(size).full()
    for settings in stages:
        logits = settings.on_network_logits(logits, context)
    enlarged = Stitched(logits[None], WindowGrid(size, (0,), (0,), size), stitched.size)
    enlarged.kept_of_trunk = stitched.kept_of_trunk
    return enlarged


def _after_labels(recipe: Recipe, labels: np.ndarray, context: ImageContext) -> np.ndarray:
    """A label map (H, W) changed by the stages at "labels", then closed."""
    for settings in recipe.stages_with("on_labels"):
        labels = settings.on_labels(labels, context)
    return recipe["labels"].close(labels)


def class_scores(recipe: Recipe, logits: Tensor, context: ImageContext) -> Tensor:
    """Class scores (C, H, W) in [0, 1] of stitched logits (Q + G, H, W): refine, scores, confidence."""
    for settings in recipe.stages_with("on_logits"):
        logits = settings.on_logits(logits[None], context)[0]
    queries, labels_of = len(context.text.query_class), recipe["labels"]
    background = context.text.vocabulary.background
    logits = labels_of.offset(logits, context.text.query_class, background)
    rule = next(iter(recipe.stages_with("class_scores")), None)
    scaled = logits * labels_of.logit_scale
    if len(logits) > queries:
        scaled, context.group_logits = scaled[:queries], scaled[queries:]
    for settings in recipe.stages_with("on_scaled_logits"):
        scaled = settings.on_scaled_logits(scaled, context)
    if rule is not None:
        scores = rule.class_scores(logits[:queries], context)
    else:
        classes = len(context.text.vocabulary)
        scores = labels_of.softmax_scores(scaled, context.text.query_class, classes)
    for settings in recipe.stages_with("on_scores"):
        scores = settings.on_scores(scores, scaled, context)
    for settings in recipe.stages_with("on_probabilities"):
        scores = settings.on_probabilities(scores, context)
    return scores


def _threshold(recipe: Recipe, scores: Tensor, context: ImageContext) -> float | None:
    """A probability threshold that depends on the picture, if a stage gives one."""
    for settings in recipe.stages_with("threshold"):
        return settings.threshold(scores, context)
    return None


def _confidence(scores: Tensor, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Score of every pixel's label, clipped to [0, 1], and the margin of the best over the second."""
    chosen = torch.from_numpy(labels).to(scores.device).long()
    sure = scores.gather(0, chosen[None])[0].clamp(0, 1)
    if len(scores) == 1:
        margin = torch.ones_like(sure)
    else:
        best = scores.topk(2, dim=0).values
        margin = best[0] - best[1]
    return sure.cpu().numpy(), margin.cpu().numpy()


def _finish_by_strips(
    recipe: Recipe, stitched: Stitched, context: ImageContext, confidence: bool
) -> Finished:
    """The same without ever holding all logits: bounded memory, whatever the size of the picture."""
    settings, text = recipe["labels"], context.text
    classes, background = len(text.vocabulary), text.vocabulary.background
    settings.check_background(background)
    height, width = stitched.size
    rule = next(iter(recipe.stages_with("class_scores")), None)
    # without a threshold, softmax and scale are monotone per pixel and the argmax is the same without them
    plain = settings.probability_threshold == 0 and rule is None
    owners = settings.owners(text.query_class, classes)

    def scores_of(logits: Tensor) -> Tensor:
        if rule is not None:
            return rule.class_scores(logits, context)
        return settings.softmax_scores(logits * settings.logit_scale, text.query_class, classes)

    out = np.empty((height, width), dtype=np.int32)
    sure: Any = np.empty((height, width), dtype=np.float32) if confidence else None
    margin: Any = np.empty((height, width), dtype=np.float32) if confidence else None
    # the confidence is that of the final labels
    changed = bool(settings.closing or recipe.stages_with("on_labels"))
    pieces = list(strips(height, stitched.queries * width))

    def logits_of(rows: slice) -> Tensor:
        logits = stitched.rows(rows.start, rows.stop)[: len(text)]
        return settings.offset(logits, text.query_class, background)

    for rows in pieces:
        logits = logits_of(rows)
        scores = scores_of(logits) if not plain or (confidence and not changed) else None
        if scores is None or plain:
            index = logits.max(dim=0).indices
            labels = owners.to(index.device)[index].to(torch.int32)
        else:
            labels = settings.labels(scores, background)
        out[rows] = labels.cpu().numpy()
        if scores is not None and confidence and not changed:
            sure[rows], margin[rows] = _confidence(scores, out[rows])
    if changed:
        out = _after_labels(recipe, out, context)
        for rows in pieces if confidence else ():
            sure[rows], margin[rows] = _confidence(scores_of(logits_of(rows)), out[rows])
    return Finished(out, None, sure, margin)


def _finish_by_query(
    recipe: Recipe, stitched: Stitched, context: ImageContext, confidence: bool
) -> Finished:
    """Refine a few queries at a time and keep the best of every pixel: bounded memory, however many words."""
    settings, text, size = recipe["labels"], context.text, stitched.size
    background = text.vocabulary.background
    settings.check_background(background)
    owners = settings.owners(text.query_class, len(text.vocabulary)).tolist()
    best = RunningBest(size, context.backbone.device, confidence)
    kept: dict[Any, Any] = {}
    step = 4 * max(1, QUERIES // (4 * size[0] * size[1]))  # stages work through four at a time
    for start in range(0, len(text), step):
        part = slice(start, min(start + step, len(text)))
        logits = stitched.some(part.start, part.stop)
        for stage in recipe.stages_with("on_logits"):
            logits = stage.on_queries(logits, context, kept)
        logits = settings.offset(logits, text.query_class[part], background)
        best.add(logits.mul_(settings.logit_scale), owners[part])
    labels = _after_labels(recipe, best.labels.cpu().numpy(), context)
    if not confidence:
        return Finished(labels)
    sure, margin = best.confidence()
    if len(text.vocabulary) == 1:
        margin = torch.ones_like(margin)
    return Finished(labels, None, sure.cpu().numpy(), margin.cpu().numpy())
