"""How sure a measured number is: a jackknife over images, of a level and of a difference.

*A level* (the mIoU of one recipe). Data-set mIoU averages over the classes that occur, and on few
images many occur in predictions alone: it is biased low, and drawing the images again with
replacement adds the bias once more, so that the percentile bootstrap's 95% interval holds the
400-image value in 0 to 50% of subsets of 20 to 100 images. Leaving each image out once
(jackknife) estimates the bias and the spread alike; both are taken on the logit of the metric, so
that an interval stays within 0..1 (Efron and Tibshirani 1993, chapters 10 and 11; `jackknife`).
How often such intervals hold the value is measured in :mod:`ovsslib.study.coverage`; below the
smallest number of images at which they do, there is no interval (NaN, in text `TOO_FEW`).

*A difference*. Two recipes are compared on the same images (paired), which takes out what these have
in common for both; not the bias, which two recipes of very different quality do not share: a paired
percentile bootstrap holds the 400-image difference of two such in a third of subsets of 20 images.
So a difference, and any other sum of scores with weights, has a jackknife interval as well, on its
own scale (`contrast`).

*What is no smooth function of the counts* (Kendall's tau of a ranking) is drawn anew with
replacement (`metric_draws`). A draw is a row of how often each image occurs, so many draws are one matrix product of these rows
with the per-image counts. The products are sums of whole numbers below 2^53 in float64: exact, and
hence the same on every machine and with any number of threads. Draws are made in blocks of a fixed
size, each from its own seed: memory is bounded and results depend on the seed alone.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from scipy.stats import t as student

from ovsslib.errors import DataError
from ovsslib.evaluation import metrics

RESAMPLES = 10_000
VERSION = 2
"""Raised when intervals are made in another way; stored ones of another version are made anew."""
_BLOCK = 250
_EDGE = 1e-6  # a metric of exactly 0 or 1 has no logit
# Chosen by simulation on the shipped counts (study/coverage.py), as are the fewest images.
BIAS_SHARE = 0.2
MINIMUM_IMAGES = {"miou": 60, "mean_accuracy": 60, "per_class_iou": 25}
MINIMUM_OTHER = 40
MINIMUM_PAIRED = 30
TOO_FEW = "too few images for an interval"

BETTER, WORSE, NOT_SHOWN = "better", "worse", "no difference shown"
LOWER_IS_BETTER = ("calibration_error",)

METRICS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "miou": metrics.miou,
    "per_class_iou": metrics.per_class_iou,
    "pixel_accuracy": metrics.pixel_accuracy,
    "mean_accuracy": metrics.mean_accuracy,
    "frequency_weighted_iou": metrics.frequency_weighted_iou,
    "boundary_f1": metrics.boundary_f1,
    "calibration_error": metrics.calibration_error,
}
"""Metrics by name. All take per-image counts (N, 3, C), but for boundary_f1 (N, 4) and
calibration_error (N, bins, 3)."""

_TRAILING = {"boundary_f1": 1}
# The axis that holds intersection, prediction and label; or pixels, right ones and confidences.
_THREE_AT = {
    name: -1 if name == "calibration_error" else -2 for name in METRICS if name not in _TRAILING
}


@dataclass(frozen=True)
class Interval:
    """A metric and where it lies with `level` certainty, as fractions 0..1.

    `value` is that of the images measured. `low` and `high` are NaN where there are too few images
    for an interval. Floats, or arrays (C,) for per-class metrics; all NaN where there is nothing to
    measure. For a difference, `value` is a - b. `resamples` is the number of images left out one at a
    time, or of draws. `corrected` is the value less its estimated bias (a jackknife estimate),
    the middle of the interval on the scale of logits; None for a difference.
    """

    value: float | np.ndarray
    low: float | np.ndarray
    high: float | np.ndarray
    level: float
    resamples: int
    corrected: float | np.ndarray | None = None

    @property
    def half_width(self) -> float | np.ndarray:
        """Half of the distance between `low` and `high`."""
        return (self.high - self.low) / 2

    def percent(self) -> "Interval":
        """The same in percent."""
        better = None if self.corrected is None else self.corrected * 100
        return Interval(
            self.value * 100, self.low * 100, self.high * 100, self.level, self.resamples, better
        )

    def of_class(self, index: int) -> "Interval":
        """One class of a per-class interval."""
        arrays = cast("tuple[np.ndarray, ...]", (self.value, self.low, self.high))
        value, low, high = (float(array[index]) for array in arrays)
        corrected = cast("np.ndarray | None", self.corrected)
        better = None if corrected is None else float(corrected[index])
        return Interval(value, low, high, self.level, self.resamples, better)

    def __str__(self) -> str:
        if np.ndim(self.value):
            return f"{np.size(self.value)} intervals at {self.level:.0%}"
        return written(self.value, self.low, self.high, ".4f")


def written(
    value: float | np.ndarray,
    low: float | np.ndarray,
    high: float | np.ndarray,
    number: str = ".2f",
    unit: str = "",
) -> str:
    """A number with its interval as tables print it: "64.49 % [62.10, 66.80]", unit " %".

    Floats, or arrays without dimensions; not the arrays (C,) of per-class metrics. `number`: a format with fixed digits.

    Without an interval (NaN): "64.49 % (too few images for an interval)"; without a value: "". An end that would be rounded
    to zero gets up to two more digits: the side of zero on which it lies is what a verdict rests on.
    """
    if value is None or np.isnan(value):
        return ""
    if low is None or high is None or np.isnan(low) or np.isnan(high):
        return f"{value:{number}}{unit} ({TOO_FEW})"
    return f"{value:{number}}{unit} [{_end(low, number)}, {_end(high, number)}]"


def _end(value: float | np.ndarray, number: str) -> str:
    """An end of an interval with the format `number`, of which the last digit before "f" says how many there are."""
    text = f"{value:{number}}"
    if value == 0 or float(text) != 0:
        return text
    digits = int(number[-2])
    longer = (f"{value:{number[:-2]}{digits + more}f}" for more in (1, 2))
    return next((other for other in longer if float(other) != 0), text)


def interval(
    counts: np.ndarray,
    level: float = 0.95,
    metric: str = "miou",
    population: int | None = None,
) -> Interval:
    """Jackknife interval of a metric over images; NaN ends with fewer than `minimum_images`.

    `counts`: integers per image, (N, 3, C); (N, 4) for boundary_f1; (N, bins, 3) for
    calibration_error. `population`: the images were drawn without replacement from so many, and
    the interval is about the value of all of those (it narrows by sqrt(1 - N / population)); None:
    about all images of the kind. Raises DataError for no images, another shape, an unknown metric,
    a level outside 0..1, or a population smaller than N.
    """
    return several_intervals(counts, (metric,), level, population)[metric]


def several_intervals(
    counts: np.ndarray,
    metric_names: tuple[str, ...] = ("miou", "pixel_accuracy"),
    level: float = 0.95,
    population: int | None = None,
) -> dict[str, Interval]:
    """Intervals of several metrics of the same counts; as :func:`interval`."""
    counts = _checked(counts, metric_names, level, 1)
    if population is not None and population < len(counts):
        raise DataError(f"{len(counts)} images cannot be drawn from {population}; give more")
    share = 1.0 if population is None else math.sqrt(1 - len(counts) / population)
    return {name: jackknife(counts, name, level, share) for name in metric_names}


def minimum_images(metric: str) -> int:
    """Fewest images with which a metric gets an interval (for a class: images that show it)."""
    return MINIMUM_IMAGES.get(metric, MINIMUM_OTHER)


def jackknife(counts: np.ndarray, metric: str, level: float, share: float = 1.0) -> Interval:
    """Bias-corrected interval from leaving out each image once, on the scale of logits.

    With L the logit of the metric of all N images and L_i that without image i, the bias is
    (N - 1) (mean L_i - L), the squared standard error (N - 1) / N * sum (L_i - mean L_i)^2, and the
    interval L - bias -+ t * sqrt(share^2 error^2 + bias^2 / 5), t with N - 1 degrees of freedom: a fifth of
    the squared bias stands for not knowing the bias itself. For a class, N is the number of images in
    which it is labelled or predicted; the others tell nothing about it.

    Arguments as :func:`interval`, checked. `share`: factor of the standard error.
    """
    function, images = METRICS[metric], len(counts)
    total = counts.sum(axis=0)
    value = np.asarray(function(total), dtype=float)
    parts = [function(total - counts[start : start + _BLOCK]) for start in range(0, images, _BLOCK)]
    left_out = np.concatenate(parts)
    used = np.asarray(images)
    if metric == "per_class_iou":
        used = (counts > 0).any(axis=1).sum(axis=0)
    # A class that only one image shows has no value without it, and no interval.
    left_out = np.where(np.isnan(left_out), value, left_out)
    logit, without = _logit(value), _logit(left_out)
    bias = (used - 1) * (without - logit).sum(axis=0) / np.maximum(used, 1)
    # Images that do not show a class leave its value as it is: they add nothing to either sum.
    mean = logit + (without - logit).sum(axis=0) / np.maximum(used, 1)
    squares = ((without - mean) ** 2).sum(axis=0) - (images - used) * (logit - mean) ** 2
    variance = np.maximum(squares, 0) * (used - 1) / np.maximum(used, 1)
    times = student.ppf((1 + level) / 2, np.maximum(used - 1, 1))
    half = times * np.sqrt(share**2 * variance + BIAS_SHARE * bias**2)
    valid = ~np.isnan(value) & (used >= minimum_images(metric))
    # Where nothing varies (all right, all wrong) rounding of the logit must not move the ends.
    moves = half > 1e-9
    low = np.where(valid, np.where(moves, _share(logit - bias - half), value), np.nan)
    high = np.where(valid, np.where(moves, _share(logit - bias + half), value), np.nan)
    corrected = np.where(moves, _share(logit - bias), value)
    if value.ndim == 0:
        ends = float(value), float(low), float(high)
        return Interval(*ends, level, images, float(corrected))
    return Interval(value, low, high, level, images, corrected)


def _logit(values: np.ndarray) -> np.ndarray:
    values = np.clip(values, _EDGE, 1 - _EDGE)
    return np.log(values / (1 - values))


def _share(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


def paired_difference(
    counts_a: np.ndarray, counts_b: np.ndarray, level: float = 0.95, metric: str = "miou"
) -> Interval:
    """Interval of metric(a) - metric(b) over the same images; NaN ends with fewer than `MINIMUM_PAIRED`.

    Both counts are as in :func:`interval`, image by image in the same order. Raises DataError also
    when their images or classes differ in number.
    """
    return contrast(left_out([counts_a, counts_b], metric, level), np.array([1.0, -1.0]), level)


@dataclass(frozen=True, eq=False)
class LeftOut:
    """A metric of several counts of the same images, whole and without each image.

    Attributes:
        values: (K,) or (K, C), fractions, NaN where there is nothing to measure.
        without: (K, N) or (K, N, C), the same without image i.
        used: how many images tell something about it, a number or (C,).
    """

    values: np.ndarray
    without: np.ndarray
    used: np.ndarray

    def of_class(self, index: int) -> "LeftOut":
        """One class of a per-class metric."""
        return LeftOut(self.values[:, index], self.without[:, :, index], self.used[index])


def left_out(
    all_counts: Sequence[np.ndarray], metric: str = "miou", level: float = 0.95
) -> LeftOut:
    """What the intervals of any sums of K scores are made of; counts as in :func:`interval`, of the same images.

    Raises DataError when their shapes differ, and as :func:`interval` does.
    """
    checked = [_checked(counts, (metric,), level, 1) for counts in all_counts]
    if len({counts.shape for counts in checked}) != 1:
        shapes = " and ".join(str(shape) for shape in sorted({counts.shape for counts in checked}))
        raise DataError(f"paired counts must be of the same images and classes, not {shapes}")
    function, images = METRICS[metric], len(checked[0])
    values, without = [], []
    shown = np.zeros((images, checked[0].shape[-1]), dtype=bool)
    for counts in checked:
        total = counts.sum(axis=0)
        blocks = [function(total - counts[i : i + _BLOCK]) for i in range(0, images, _BLOCK)]
        values.append(np.asarray(function(total), dtype=float))
        # Without the only image that shows a class it has no value; such images add nothing.
        parts = np.concatenate(blocks)
        without.append(np.where(np.isnan(parts), values[-1], parts))
        if metric == "per_class_iou":
            shown |= (counts > 0).any(axis=1)
    used = shown.sum(axis=0) if metric == "per_class_iou" else np.asarray(images)
    return LeftOut(np.stack(values), np.stack(without), used)


def contrast(scores: LeftOut, weights: np.ndarray, level: float = 0.95) -> Interval:
    """Jackknife interval of a sum of scores with weights (K,): a difference, an effect, an interaction.

    With D the sum over all N images and D_i that without image i, the bias is (N - 1) (mean D_i - D), the squared
    standard error (N - 1) / N * sum (D_i - mean D_i)^2, and the interval D - bias -+ t * sqrt(error^2 + bias^2 / 5),
    as :func:`jackknife` has it for logits. Ends are NaN with fewer than `MINIMUM_PAIRED` images.
    """
    weights = np.asarray(weights, dtype=float)
    value = np.tensordot(weights, scores.values, axes=1)
    without = np.tensordot(weights, scores.without, axes=1)
    return _jackknifed(value, without, scores.used, level)


def ratio(scores: LeftOut, weights: np.ndarray, over: np.ndarray, level: float = 0.95) -> Interval:
    """Jackknife interval of one sum of scores over another, as :func:`contrast`."""
    value = (weights @ scores.values) / (over @ scores.values)
    without = (weights @ scores.without) / (over @ scores.without)
    return _jackknifed(value, without, scores.used, level)


def _jackknifed(value: np.ndarray, without: np.ndarray, used: np.ndarray, level: float) -> Interval:
    images, away = len(without), without - value
    # An image that tells nothing about a class leaves its value as it is: it adds nothing to either sum.
    mean = away.sum(axis=0) / np.maximum(used, 1)
    bias = (used - 1) * mean
    squares = np.maximum((away**2).sum(axis=0) - used * mean**2, 0)
    variance = squares * (used - 1) / np.maximum(used, 1)
    times = student.ppf((1 + level) / 2, np.maximum(used - 1, 1))
    half = times * np.sqrt(variance + BIAS_SHARE * bias**2)
    moves = half > 1e-12  # where nothing varies rounding must not move the ends
    valid = ~np.isnan(value) & (used >= MINIMUM_PAIRED)
    middle = np.where(moves, value - bias, value)
    low = np.where(valid, np.where(moves, middle - half, value), np.nan)
    high = np.where(valid, np.where(moves, middle + half, value), np.nan)
    if np.ndim(value) == 0:
        return Interval(float(value), float(low), float(high), level, images)
    return Interval(value, low, high, level, images)


def metric_draws(
    all_counts: list[np.ndarray], metric: str = "miou", resamples: int = RESAMPLES, seed: int = 0
) -> np.ndarray:
    """A metric of several counts over the same draws of images, (len(all_counts), resamples, ...).

    For statistics that are no smooth function of the counts (rankings): any function of the rows is
    paired over the images. Counts as in :func:`interval`, all of the same images in the same
    order. Raises DataError when their shapes differ, and as :func:`interval` does.
    """
    checked = [_checked(counts, (metric,), 0.95, resamples) for counts in all_counts]
    if len({counts.shape for counts in checked}) != 1:
        shapes = sorted({counts.shape for counts in checked})
        raise DataError(f"paired counts must be of the same images and classes, not {shapes}")
    return np.stack(_bootstrap(checked, (metric,), resamples, seed)[metric])


def verdict(difference: Interval, metric: str = "miou") -> str | list[str]:
    """What a difference of a metric shows: "better", "worse", or "no difference shown" if its interval holds 0.

    A fall is better where lower is better (`LOWER_IS_BETTER`). A list for per-class differences. Nothing to
    measure (NaN) shows no difference.
    """
    above, below = (WORSE, BETTER) if metric in LOWER_IS_BETTER else (BETTER, WORSE)

    def word(low: float, high: float) -> str:
        if low > 0:
            return above
        return below if high < 0 else NOT_SHOWN

    if np.ndim(difference.low):
        arrays = cast("tuple[np.ndarray, np.ndarray]", (difference.low, difference.high))
        return [word(*pair) for pair in zip(*arrays, strict=True)]
    return word(*cast("tuple[float, float]", (difference.low, difference.high)))


def draw_weights(images: int, resamples: int, seed: int, block: int) -> np.ndarray:
    """How often each image occurs in each draw of a block, (resamples, images) float64."""
    random = np.random.default_rng([seed, block])
    chosen = random.integers(0, images, size=(resamples, images))
    chosen += np.arange(resamples)[:, None] * images
    return (
        np.bincount(chosen.ravel(), minlength=resamples * images).reshape(resamples, images) * 1.0
    )


def _bootstrap(
    all_counts: list[np.ndarray], metric_names: tuple[str, ...], resamples: int, seed: int
) -> dict[str, list[np.ndarray]]:
    """Values of the metrics over the draws: per name, for each of the counts, (resamples, ...)."""
    images, shape = len(all_counts[0]), all_counts[0].shape[1:]
    flat = [counts.reshape(images, -1).astype(np.float64) for counts in all_counts]
    # Small data sets have many empty columns (classes never met): no need to multiply zeros.
    used = [columns.any(axis=0) for columns in flat]
    non_empty = [columns[:, keep] for columns, keep in zip(flat, used, strict=True)]
    values: dict[str, list[list[np.ndarray]]] = {n: [[] for _ in flat] for n in metric_names}
    for block, start in enumerate(range(0, resamples, _BLOCK)):
        weights = draw_weights(images, min(_BLOCK, resamples - start), seed, block)
        for index, columns in enumerate(non_empty):
            sums = np.zeros((len(weights), used[index].size))
            sums[:, used[index]] = weights @ columns
            totals = sums.reshape(-1, *shape)
            for name in metric_names:
                values[name][index].append(METRICS[name](totals))
    return {name: [np.concatenate(parts) for parts in lists] for name, lists in values.items()}


def _checked(
    counts: np.ndarray, metric_names: tuple[str, ...], level: float, resamples: int
) -> np.ndarray:
    counts = np.asarray(counts)
    for name in metric_names:
        if name not in METRICS:
            raise DataError(f"unknown metric {name!r}; there are {', '.join(METRICS)}")
        trailing = _TRAILING.get(name, 2)
        if counts.ndim != 1 + trailing:
            raise DataError(
                f"{name} needs counts with {trailing} axes after the images, "
                f"not shape {counts.shape}"
            )
        place = _THREE_AT.get(name)
        if place is not None and counts.shape[place] != 3:
            raise DataError(
                f"{name} needs 3 counts along axis {place}, not shape {counts.shape}: these are the counts of "
                "another metric"
            )
    if len(counts) == 0:
        raise DataError("no images, so no interval: evaluate at least one image")
    if not 0 < level < 1:
        raise DataError(f"the level must lie between 0 and 1 (0.95 = 95%), not {level}")
    if resamples < 1:
        raise DataError(f"at least 1 resample is needed, not {resamples}")
    if counts.dtype.kind not in "iu":
        raise DataError(f"counts must be whole numbers, not {counts.dtype}")
    if counts.min(initial=0) < 0:
        raise DataError(f"counts are numbers of pixels, and one of these is {counts.min()}")
    return counts
