"""Where the accuracy goes: what the grid of patches allows, what the words cost, and which errors
are left.

All numbers are percent (or percentage points) with 95% intervals over images. Every
function gives tidy tables; the counts behind them are kept in the objects.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import cv2
import numpy as np
import pandas as pd

from ovsslib.clip.geometry import bilinear_matrix
from ovsslib.errors import DataError
from ovsslib.evaluation import intervals, metrics
from ovsslib.evaluation.measuring import model_name
from ovsslib.evaluation.passes import Measured, listed
from ovsslib.evaluation.predictions import Predictions, predict, true_label
from ovsslib.evaluation.report import Report, provenance

CELLS = (16, 8, 4)
"""Sides in pixels of one cell of the 14x14, 28x28 and 56x56 grids of a window of 224 pixels."""
WINDOW = 224
BOUNDARY_PIXELS = 5
SMALL_PIXELS = 1000
NEAR, SMALL, BOTH, NEITHER = "near a boundary", "small object", "both", "neither"
CAUSES = (NEAR, SMALL, BOTH, NEITHER)


# -- ceilings --------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def area_matrix(size: int, cells: int) -> np.ndarray:
    """(cells, size) float64: mean over equal cells, pixels that a cell holds in part weighed by
    that part."""
    edges = np.arange(cells + 1) * size / cells
    low, high = np.arange(size), np.arange(size) + 1
    overlap = np.minimum(edges[1:, None], high) - np.maximum(edges[:-1, None], low)
    return np.clip(overlap, 0, None) * cells / size


def through_grid(label: np.ndarray, cell: float, ignore: int = 255) -> np.ndarray:
    """A label map seen through a grid of cells: one-hot area averages per cell, bilinear back,
    argmax.

    Args:
        label: (H, W) integers.
        cell: side of a cell in pixels; each side of the map has the nearest whole number of cells,
            at least one.
        ignore: label of pixels that belong to no class.

    Returns:
        (H, W) of the same type, with a class at ignored pixels too; equals count for the lower
        class.
    """
    if cell <= 0:
        raise DataError(f"cell={cell}: a cell is a positive number of pixels")
    classes = np.unique(label[label != ignore])
    if not classes.size:
        return label.copy()
    height, width = label.shape
    rows, columns = (max(1, round(side / cell)) for side in (height, width))
    down = area_matrix(height, rows)
    across = area_matrix(width, columns)
    up = bilinear_matrix(rows, height).double().numpy()
    along = bilinear_matrix(columns, width).double().numpy()
    shares = np.stack([down @ (label == c).astype(np.float64) @ across.T for c in classes])
    # rounding must not decide between classes that tie
    finest = np.round(np.einsum("hr,krc,wc->khw", up, shares, along, optimize=True), 9)
    return classes[finest.argmax(axis=0)].astype(label.dtype)


def ceilings(
    dataset: Any,
    cells: Sequence[float] = CELLS,
    limit: int | None = None,
    short_side: int | None = None,
) -> pd.DataFrame:
    """What the best possible labels of a grid of patches would score: the ground truth through the
    grid.

    Args:
        dataset, limit: as :func:`ovsslib.evaluate` takes them.
        cells: sides of a cell in pixels of the picture that the model sees.
        short_side: short side of that picture (`windows.short_side` of a recipe); None: the
            original size.

    Returns:
        One row per grid and metric (miou, boundary_f1): grid ("14x14 per 224 pixels"), cell_pixels,
        metric, value, low, high, unit ("percent"), images.
    """
    chosen = dataset if limit is None or limit >= len(dataset) else dataset[:limit]
    if not len(chosen):
        raise DataError(f"the data set {dataset.name!r} has no images")
    counts: list[list[np.ndarray]] = [[] for _ in cells]
    boundaries: list[list[np.ndarray]] = [[] for _ in cells]
    ignore = chosen.ignore_index
    for index in range(len(chosen)):
        label = true_label(chosen, index)
        enlarged = min(label.shape) / short_side if short_side else 1.0
        for place, cell in enumerate(cells):
            reached = through_grid(label, cell * enlarged, ignore)
            reached = np.where(reached == ignore, 0, reached)
            counts[place].append(metrics.image_counts(reached, label, chosen.classes, ignore))
            boundaries[place].append(metrics.boundary_counts(reached, label, ignore))
    rows = []
    for place, cell in enumerate(cells):
        side = f"{WINDOW / cell:g}"
        for metric, values in (("miou", counts[place]), ("boundary_f1", boundaries[place])):
            interval = intervals.interval(np.stack(values), metric=metric).percent()
            rows.append(
                {
                    "grid": f"{side}x{side} per {WINDOW} pixels",
                    "cell_pixels": cell,
                    "metric": metric,
                    "value": interval.value,
                    "low": interval.low,
                    "high": interval.high,
                    "unit": "percent",
                    "images": len(chosen),
                }
            )
    return pd.DataFrame(rows)


# -- an oracle for the words -----------------------------------------------------------------------


def report_of(predictions: Predictions, notes: Sequence[str] = ()) -> Report:
    """A report from label maps. It has no calibration (NaN), since label maps carry no scores."""
    dataset, recipe = predictions.dataset, predictions.segmenter.recipe
    ignore = dataset.ignore_index
    counts, boundary = [], []
    for _, mask, label in predictions.pairs():
        counts.append(metrics.image_counts(mask, label, dataset.classes, ignore))
        boundary.append(metrics.boundary_counts(mask, label, ignore))
    backbone = predictions.segmenter.backbone
    return Report(
        recipe=recipe,
        dataset=dataset.name,
        model=model_name(backbone),
        names=tuple(predictions.vocabulary.names),
        counts=np.stack(counts),
        boundary_counts=np.stack(boundary),
        calibration_counts=np.zeros((len(counts), metrics.CALIBRATION_BINS, 3), dtype=np.int64),
        indices=np.arange(len(counts)),
        limit=len(dataset),
        provenance=provenance(backbone.device),
        notes=tuple(notes),
    )


@dataclass(frozen=True, eq=False)
class OracleWords:
    """Reports by recipe name, with all words of the data set and with each image's own words
    only."""

    all_words: dict[str, Report]
    present_words: dict[str, Report]

    def table(self, metric: str = "miou") -> pd.DataFrame:
        """One row per recipe: recipe, metric; all_words, present_words (percent), gain (points,
        paired), each with _low and _high; verdict; images."""
        rows = []
        for name, ordinary in self.all_words.items():
            oracle = self.present_words[name]
            first, second = ordinary.interval(metric), oracle.interval(metric)
            gain = oracle.difference(ordinary, metric)
            rows.append(
                {
                    "recipe": name,
                    "metric": metric,
                    "all_words": first.value,
                    "all_words_low": first.low,
                    "all_words_high": first.high,
                    "present_words": second.value,
                    "present_words_low": second.low,
                    "present_words_high": second.high,
                    "unit": "percent",
                    "gain": gain.value,
                    "gain_low": gain.low,
                    "gain_high": gain.high,
                    "gain_unit": "points",
                    "verdict": intervals.verdict(gain, metric),
                    "images": ordinary.images,
                }
            )
        return pd.DataFrame(rows)


def oracle_words(
    segmenters: Measured | Sequence[Measured],
    dataset: Any,
    limit: int | None = None,
    **options: Any,
) -> OracleWords:
    """Accuracy if an oracle told, for every image, which of the words occur in it.

    Segmenters as in :func:`ovsslib.evaluate`; `options` go to :func:`predict`. Recipes that differ
    must have different names. The whole segmentation runs with the shorter list, so that stages
    that look at the words (feedback, hierarchy, thresholds) see it too. A background class always
    stays in the list.
    """
    entries = listed(segmenters)
    names = [entry.recipe.name for entry in entries]
    if len(set(names)) < len(names):
        raise DataError(f"two of the recipes {names} have one name; rename one with but(name=...)")
    plain = predict(entries, dataset, limit, **options)
    oracle = predict(entries, dataset, limit, present_only=True, **options)
    note = "each image with the words of its own label map only"
    return OracleWords(
        {predictions.name: report_of(predictions) for predictions in plain},
        {predictions.name: report_of(predictions, [note]) for predictions in oracle},
    )


# -- errors ----------------------------------------------------------------------------------------


def near_boundary(
    label: np.ndarray, pixels: float = BOUNDARY_PIXELS, ignore: int = 255
) -> np.ndarray:
    """(H, W) bool: labelled pixels with a pixel of another class at most `pixels` away
    (Euclidean)."""
    labelled = label != ignore
    near = np.zeros(label.shape, dtype=bool)
    for value in np.unique(label[labelled]):
        region = label == value
        surroundings = labelled & ~region
        if surroundings.any():
            distance = cv2.distanceTransform(
                (~surroundings).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE
            )
            near |= region & (distance <= pixels + 1e-4)
    return near


def components(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Connected parts of a mask (8 neighbours): (H, W) int32 numbers from 1, and sizes (n + 1,),
    [0] outside."""
    count, labelled = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    numbers = cast("np.ndarray", labelled)  # int32, which OpenCV's stubs leave open
    return numbers, np.bincount(numbers.ravel(), minlength=count)


def small_objects(
    label: np.ndarray, classes: Sequence[int], below: int = SMALL_PIXELS
) -> np.ndarray:
    """(H, W) bool: pixels of connected parts, of the given classes, with fewer than `below`
    pixels."""
    small = np.zeros(label.shape, dtype=bool)
    for value in np.intersect1d(np.unique(label), np.asarray(classes, dtype=int)):
        numbers, sizes = components(label == value)
        few = sizes < below
        few[0] = False
        small |= few[numbers]
    return small


def object_classes(vocabulary: Any) -> list[int]:
    """Class numbers of the things of a vocabulary; of all but the background if no class is a
    thing."""
    things = [c for c, kind in enumerate(vocabulary.kinds) if kind == "thing"]
    things = things or list(range(len(vocabulary)))
    return [c for c in things if c != vocabulary.background]


@dataclass(frozen=True, eq=False)
class ErrorAnalysis:
    """Where and between which classes a segmenter errs.

    Attributes:
        recipe, dataset, model: what was analysed.
        names, kinds: classes in label order, with "thing", "stuff" or "material".
        matrix: (C, C) int64 pixels by (label, prediction).
        wrong, pixels: (N, 4) int64 per image: wrong pixels, and all labelled pixels, by place
            (`CAUSES`: near a boundary alone, in a small object alone, both, neither).
        counts: (N, 3, C) int64.
        corrected: (4, N, 3, C) int64: counts if the errors of a place were right.
    """

    recipe: str
    dataset: str
    model: str
    names: tuple[str, ...]
    kinds: tuple[str, ...]
    matrix: np.ndarray
    wrong: np.ndarray
    pixels: np.ndarray
    counts: np.ndarray
    corrected: np.ndarray

    @property
    def images(self) -> int:
        """Number of images."""
        return len(self.wrong)

    def causes(self, resamples: int = intervals.RESAMPLES) -> pd.DataFrame:
        """One row per place of an error; the four places exclude each other and make up all
        labelled pixels.

        Columns: cause; share_of_errors, low, high (percent of the wrong pixels); share_of_pixels
        (percent of the labelled ones); error_rate (percent of the place's own pixels); miou_gain,
        miou_gain_low, miou_gain_high (points of mIoU if all of these pixels were right);
        wrong_pixels; images.
        """
        draws = _share_draws(self.wrong, resamples)
        wrong, pixels = self.wrong.sum(axis=0), self.pixels.sum(axis=0)
        rows = []
        for place, cause in enumerate(CAUSES):
            shares = draws[:, place][~np.isnan(draws[:, place])]
            low, high = np.quantile(shares, [0.025, 0.975]) if shares.size else (math.nan, math.nan)
            gain = intervals.paired_difference(self.corrected[place], self.counts).percent()
            rows.append(
                {
                    "cause": cause,
                    "share_of_errors": _percent(wrong[place], wrong.sum()),
                    "low": 100 * low,
                    "high": 100 * high,
                    "share_of_pixels": _percent(pixels[place], pixels.sum()),
                    "error_rate": _percent(wrong[place], pixels[place]),
                    "miou_gain": gain.value,
                    "miou_gain_low": gain.low,
                    "miou_gain_high": gain.high,
                    "wrong_pixels": int(wrong[place]),
                    "images": self.images,
                }
            )
        return pd.DataFrame(rows)

    def confusions(self, top: int = 10) -> pd.DataFrame:
        """The most frequent confusions: label, predicted, kinds ("thing taken for stuff"),
        wrong_pixels, share_of_errors (percent of all wrong pixels), share_of_label (percent of the
        label's pixels).
        """
        errors = self.matrix.copy()
        np.fill_diagonal(errors, 0)
        order = np.argsort(-errors, axis=None, kind="stable")[:top]
        rows = []
        for true, predicted in zip(*np.unravel_index(order, errors.shape), strict=True):
            if not errors[true, predicted]:
                break
            rows.append(
                {
                    "label": self.names[true],
                    "predicted": self.names[predicted],
                    "kinds": f"{self.kinds[true]} taken for {self.kinds[predicted]}",
                    "wrong_pixels": int(errors[true, predicted]),
                    "share_of_errors": _percent(errors[true, predicted], errors.sum()),
                    "share_of_label": _percent(errors[true, predicted], self.matrix[true].sum()),
                }
            )
        columns = [
            "label",
            "predicted",
            "kinds",
            "wrong_pixels",
            "share_of_errors",
            "share_of_label",
        ]
        return pd.DataFrame(rows, columns=columns)

    def kinds_of_errors(self) -> pd.DataFrame:
        """Wrong pixels by the kinds of label and prediction: label_kind, predicted_kind,
        wrong_pixels, share_of_errors (percent)."""
        errors = self.matrix.copy()
        np.fill_diagonal(errors, 0)
        rows = []
        for first in sorted(set(self.kinds)):
            for second in sorted(set(self.kinds)):
                of = np.array(self.kinds) == first
                to = np.array(self.kinds) == second
                count = int(errors[np.ix_(of, to)].sum())
                rows.append((first, second, count, _percent(count, errors.sum())))
        columns = ["label_kind", "predicted_kind", "wrong_pixels", "share_of_errors"]
        return pd.DataFrame(rows, columns=columns)


def errors(
    predictions: Predictions, boundary: float = BOUNDARY_PIXELS, small: int = SMALL_PIXELS
) -> ErrorAnalysis:
    """Sort the wrong pixels of a segmenter by where they lie and what they were taken for.

    Args:
        predictions: from :func:`predict`.
        boundary: pixels (of the original picture) from another class that count as near.
        small: connected parts of things with fewer pixels are small objects (the thesis's limit:
            1,000). A vocabulary without things has every class but the background counted as such.
    """
    dataset, words = predictions.dataset, predictions.vocabulary
    classes, ignore = dataset.classes, dataset.ignore_index
    things = object_classes(words)
    matrix = np.zeros((classes, classes), dtype=np.int64)
    wrong, pixels, counts, corrected = [], [], [], []
    for _, mask, label in predictions.pairs():
        labelled = label != ignore
        near, tiny = near_boundary(label, boundary, ignore), small_objects(label, things, small)
        places = [near & ~tiny, tiny & ~near, near & tiny, ~near & ~tiny]
        false = labelled & (mask != label)
        wrong.append([(false & place).sum() for place in places])
        pixels.append([(labelled & place).sum() for place in places])
        confusion = metrics.confusion(mask, label, classes, ignore)
        matrix += confusion
        counts.append(metrics.counts_of(confusion))
        mended = [np.where(place & labelled, label, mask) for place in places]
        corrected.append([metrics.image_counts(m, label, classes, ignore) for m in mended])
    return ErrorAnalysis(
        recipe=predictions.name,
        dataset=dataset.name,
        model=model_name(predictions.segmenter.backbone),
        names=tuple(words.names),
        kinds=tuple(words.kinds),
        matrix=matrix,
        wrong=np.array(wrong, dtype=np.int64),
        pixels=np.array(pixels, dtype=np.int64),
        counts=np.stack(counts),
        corrected=np.moveaxis(np.array(corrected, dtype=np.int64), 0, 1),
    )


def _share_draws(wrong: np.ndarray, resamples: int) -> np.ndarray:
    """(resamples, places): each place's share of the wrong pixels in draws of images; NaN without
    any."""
    parts = []
    for block, start in enumerate(range(0, resamples, 250)):
        weights = intervals.draw_weights(len(wrong), min(250, resamples - start), 0, block)
        totals = weights @ wrong
        with np.errstate(invalid="ignore"):
            parts.append(totals / totals.sum(axis=1, keepdims=True))
    return np.concatenate(parts)


def _percent(part: float, whole: float) -> float:
    return 100.0 * float(part) / float(whole) if whole else math.nan
