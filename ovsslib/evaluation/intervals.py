"""How sure a measured number is: bootstrap over images from the stored per-image counts.

The images of a data set are drawn again with replacement, as many as there are; the metric of each
draw comes from the summed counts of the drawn images, so mIoU stays the data-set metric. The
interval is the percentile interval (Efron and Tibshirani 1993, section 13.3). Two recipes are
compared on the same draws (paired), which takes out what the draw of images has in common for both.

A draw is a row of how often each image occurs, so many draws are one matrix product of these rows
with the per-image counts. The products are sums of whole numbers below 2^53 in float64: exact, and
hence the same on every machine and with any number of threads. Draws are made in blocks of a fixed
size, each from its own seed: memory is bounded and results depend on the seed alone.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ovsslib.errors import DataError
from ovsslib.evaluation import metrics

RESAMPLES = 10_000
_BLOCK = 250

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
_THREE_AT = {name: -1 if name == "calibration_error" else -2 for name in METRICS if name not in _TRAILING}


@dataclass(frozen=True)
class Interval:
    """A metric and where it lies with `level` certainty, as fractions 0..1.

    `value` is that of all images, `low` and `high` the percentiles over `resamples` draws. Floats,
    or arrays (C,) for per-class metrics; NaN where there is nothing to measure. For a difference,
    `value` is a - b.
    """

    value: float | np.ndarray
    low: float | np.ndarray
    high: float | np.ndarray
    level: float
    resamples: int

    @property
    def half_width(self) -> float | np.ndarray:
        """Half of the distance between `low` and `high`."""
        return (self.high - self.low) / 2

    def percent(self) -> "Interval":
        """The same in percent."""
        return Interval(
            self.value * 100, self.low * 100, self.high * 100, self.level, self.resamples
        )

    def __str__(self) -> str:
        if np.ndim(self.value):
            return f"{np.size(self.value)} intervals at {self.level:.0%}"
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"


def interval(
    counts: np.ndarray,
    level: float = 0.95,
    metric: str = "miou",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Bootstrap interval of a metric over images.

    `counts`: integers per image, (N, 3, C); (N, 4) for boundary_f1; (N, bins, 3) for
    calibration_error. Classes that a draw does not contain are left out of that draw's mean, as
    they are in the metric itself. Raises DataError for no images, another shape, an unknown metric,
    or a level outside 0..1.
    """
    return several_intervals(counts, (metric,), level, resamples, seed)[metric]


def several_intervals(
    counts: np.ndarray,
    metric_names: tuple[str, ...] = ("miou", "pixel_accuracy"),
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Interval]:
    """Intervals of several metrics of the same counts from one pass of draws; as
    :func:`interval`."""
    counts = _checked(counts, metric_names, level, resamples)
    draws = _bootstrap([counts], metric_names, resamples, seed)
    return {
        name: _interval(METRICS[name](counts.sum(axis=0)), draws[name][0], level)
        for name in metric_names
    }


def paired_difference(
    counts_a: np.ndarray,
    counts_b: np.ndarray,
    level: float = 0.95,
    metric: str = "miou",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Interval of metric(a) - metric(b), both over the same draws of the same images.

    Both counts are as in :func:`interval`, image by image in the same order. Raises DataError also
    when their images or classes differ in number.
    """
    counts_a = _checked(counts_a, (metric,), level, resamples)
    counts_b = _checked(counts_b, (metric,), level, resamples)
    if counts_a.shape != counts_b.shape:
        raise DataError(
            f"paired counts must be of the same images and classes, not {counts_a.shape} and "
            f"{counts_b.shape}"
        )
    first, second = _bootstrap([counts_a, counts_b], (metric,), resamples, seed)[metric]
    value = METRICS[metric](counts_a.sum(axis=0)) - METRICS[metric](counts_b.sum(axis=0))
    return _interval(value, first - second, level)


def metric_draws(
    all_counts: list[np.ndarray], metric: str = "miou", resamples: int = RESAMPLES, seed: int = 0
) -> np.ndarray:
    """A metric of several counts over the same draws of images, (len(all_counts), resamples, ...).

    For statistics that combine more than two recipes (effects, rankings): any function of the rows
    is paired over the images. Counts as in :func:`interval`, all of the same images in the same
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
        return [word(*pair) for pair in zip(difference.low, difference.high, strict=True)]
    return word(difference.low, difference.high)


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
    kept = [columns[:, keep] for columns, keep in zip(flat, used, strict=True)]
    values: dict[str, list[list[np.ndarray]]] = {n: [[] for _ in flat] for n in metric_names}
    for block, start in enumerate(range(0, resamples, _BLOCK)):
        weights = draw_weights(images, min(_BLOCK, resamples - start), seed, block)
        for index, columns in enumerate(kept):
            totals = np.zeros((len(weights), used[index].size))
            totals[:, used[index]] = weights @ columns
            totals = totals.reshape(-1, *shape)
            for name in metric_names:
                values[name][index].append(METRICS[name](totals))
    return {name: [np.concatenate(parts) for parts in lists] for name, lists in values.items()}


def _interval(value: np.ndarray, draws: np.ndarray, level: float) -> Interval:
    tail = (1 - level) / 2
    low, high = _percentiles(draws, tail), _percentiles(draws, 1 - tail)
    if np.ndim(value) == 0:
        value, low, high = float(value), float(low), float(high)
    return Interval(value, low, high, level, len(draws))


def _percentiles(draws: np.ndarray, share: float) -> np.ndarray:
    """Quantile over the draws that are known, linear between neighbours; NaN where none is."""
    columns = draws.reshape(len(draws), -1)
    result = np.full(columns.shape[1], np.nan)
    for index, column in enumerate(columns.T):
        known = column[~np.isnan(column)]
        if known.size:
            result[index] = np.quantile(known, share)
    return result.reshape(draws.shape[1:])


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
    return counts
