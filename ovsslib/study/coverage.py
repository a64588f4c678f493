"""Do the intervals cover? How often an interval from some images holds the value of all of them.

From a measured recipe, subsets of n of its N images are drawn without replacement. Each gives an
interval; a 95% interval should hold the value of all N in about 95% of draws. A subset of N images
is no sample of all pictures of the kind: the interval of a level is made for this population
(`population` in :func:`ovsslib.evaluation.intervals.interval`, which narrows it by
sqrt(1 - n / N)). The interval of a paired difference is taken as it is printed, for all images of
the kind; from n = N / 2 on it covers more often than it says, which is why it is not to be judged
there.

Everything comes from stored per-image counts; nothing is measured again.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from ovsslib.errors import DataError
from ovsslib.evaluation import intervals
from ovsslib.evaluation.report import Report

SIZES = (20, 40, 60, 100, 150, 200, 300)
COVERED = (90.0, 99.0)
"""Percent of draws within which a 95% interval is said to cover."""


def level_coverage(
    counts: np.ndarray, images: int, metric: str = "miou", draws: int = 200, seed: int = 0
) -> tuple[float, float, float]:
    """How an interval of `images` of the N images does: (percent of draws that it covers, its mean
    width in points, mean distance in points of the bias-corrected value from that of all N).

    `counts` as :func:`ovsslib.evaluation.intervals.interval` takes them. The first two are NaN
    where no interval is printed. Raises DataError for fewer than 1 or N or more images.
    """
    _check(len(counts), images, draws)
    truth = float(intervals.METRICS[metric](counts.sum(axis=0)))
    hits = 0
    widths: list[float] = []
    shifts: list[float] = []
    for chosen in _subsets(len(counts), images, draws, seed):
        interval = intervals.interval(counts[chosen], 0.95, metric, population=len(counts))
        hits += bool(interval.low <= truth <= interval.high)
        assert interval.corrected is not None  # a level, not a difference
        widths.append(100 * float(interval.high - interval.low))
        shifts.append(100 * float(interval.corrected - truth))
    # With too few images all are NaN alike; one draw of nothing to measure counts as not covered.
    printed = images >= intervals.minimum_images(metric)
    return (
        100 * hits / draws if printed else np.nan,
        float(np.nanmean(widths)) if printed else np.nan,
        float(np.nanmean(shifts)),
    )


def paired_coverage(
    first: np.ndarray,
    second: np.ndarray,
    images: int,
    metric: str = "miou",
    draws: int = 60,
    seed: int = 0,
) -> float:
    """Percent of subsets whose paired interval holds the difference on all N images; NaN where none
    is printed.

    Arguments as :func:`level_coverage`. Raises DataError also for counts that do not pair.
    """
    _check(len(first), images, draws)
    if images < intervals.MINIMUM_PAIRED:
        return float("nan")
    function = intervals.METRICS[metric]
    truth = function(first.sum(axis=0)) - function(second.sum(axis=0))
    hits = 0
    for chosen in _subsets(len(first), images, draws, seed):
        interval = intervals.paired_difference(first[chosen], second[chosen], 0.95, metric)
        hits += bool(interval.low <= truth <= interval.high)
    return 100 * hits / draws


def coverage_table(
    reports: Mapping[str, Report],
    metric: str = "miou",
    sizes: Sequence[int] = SIZES,
    draws: int = 200,
    seed: int = 0,
) -> pd.DataFrame:
    """Coverage for several recipes: one row per size below the number of images, index `images`.

    Columns: one per recipe (percent of draws whose interval covers; NaN: no interval is printed),
    lowest, highest, mean (over the recipes), width and shift (points, means over the recipes; see
    :func:`level_coverage`). Raises DataError for no reports or none of the sizes in reach.
    """
    if not reports:
        raise DataError("no reports, so no coverage: give at least one")
    least = min(report.images for report in reports.values())
    fitting = [size for size in sizes if size < least]
    if not fitting:
        raise DataError(f"the reports have {least} images; give sizes below that, not {sizes}")
    rows = []
    for size in fitting:
        coverages = {
            name: level_coverage(report.counts_for(metric)[0], size, metric, draws, seed)
            for name, report in reports.items()
        }
        shares = {name: coverage[0] for name, coverage in coverages.items()}
        values = np.array(list(coverages.values()))
        summary = {"lowest": values[:, 0].min(), "highest": values[:, 0].max()}
        summary["mean"] = values[:, 0].mean()
        summary |= {"width": values[:, 1].mean(), "shift": values[:, 2].mean()}
        rows.append({"images": size} | shares | summary)
    return pd.DataFrame(rows).set_index("images")


def _subsets(all_images: int, images: int, draws: int, seed: int):
    for number in range(draws):
        random = np.random.default_rng([seed, images, number])
        yield np.sort(random.choice(all_images, images, replace=False))


def _check(all_images: int, images: int, draws: int) -> None:
    if not 1 <= images < all_images:
        raise DataError(f"{images} of {all_images} images: give 1 to {all_images - 1}")
    if draws < 1:
        raise DataError(f"at least 1 draw is needed, not {draws}")
