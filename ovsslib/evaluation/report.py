"""The outcome of one evaluation: counts per image, and every number that follows from them."""

import functools
import html
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ovsslib.errors import DataError
from ovsslib.evaluation import intervals, metrics
from ovsslib.evaluation.intervals import Interval
from ovsslib.recipe import Recipe

METRICS = {
    "miou": "mIoU",
    "pixel_accuracy": "pixel accuracy",
    "mean_accuracy": "mean accuracy",
    "frequency_weighted_iou": "frequency-weighted IoU",
    "boundary_f1": "boundary F1",
    "per_image_miou": "per-image mIoU",
    "calibration_error": "calibration error",
}
"""The scalar metrics of a report, all in percent, and what tables call them."""
CLASS_PREFIX = "class_iou:"


@dataclass(frozen=True, eq=False)
class Report:
    """What one recipe reached on one data set. All scores are in percent.

    Attributes:
        recipe, dataset, model: what was evaluated on what; model is "name/pretrained".
        names: the C classes in label order.
        counts: (N, 3, C) int64 per image: intersection, prediction, label (see `metrics`).
        boundary_counts: (N, 4) int64 per image.
        calibration_counts: (N, bins, 3) int64 per image.
        indices: (N,) int64, places of the counted images in the data set, rising.
        skipped: (image name, why) of the images that could not be used; they are in no number.
        limit: number of images asked for, or None if it was the whole data set.
        seconds_per_image: mean computing time without loading; what recipes share is divided evenly.
        provenance: commit, machine, versions, time: who measured, not what.
        notes: what a reader should know, such as a recipe tuned for another data set.
    """

    recipe: Recipe
    dataset: str
    model: str
    names: tuple[str, ...]
    counts: np.ndarray
    boundary_counts: np.ndarray
    calibration_counts: np.ndarray
    indices: np.ndarray
    skipped: Sequence[tuple[str, str]] = ()
    limit: int | None = None
    seconds_per_image: float = float("nan")
    provenance: dict[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def images(self) -> int:
        """Number of images that were counted."""
        return len(self.counts)

    @functools.cached_property
    def totals(self) -> np.ndarray:
        """Counts of the whole data set, (3, C) int64."""
        return self.counts.sum(axis=0)

    @property
    def miou(self) -> float:
        """Data-set mIoU, that of published tables."""
        return self.value("miou")

    @functools.cached_property
    def per_class(self) -> pd.Series:
        """IoU of each class by name; NaN for a class that is neither labelled nor predicted."""
        return pd.Series(
            100 * metrics.per_class_iou(self.totals), index=list(self.names), name="IoU"
        )

    @property
    def pixel_accuracy(self) -> float:
        """Share of labelled pixels that are right (aAcc)."""
        return self.value("pixel_accuracy")

    @property
    def mean_accuracy(self) -> float:
        """Mean recall over the labelled classes (mAcc)."""
        return self.value("mean_accuracy")

    @property
    def frequency_weighted_iou(self) -> float:
        """IoU weighted by the classes' share of the labelled pixels."""
        return self.value("frequency_weighted_iou")

    @property
    def boundary_f1(self) -> float:
        """F1 of boundary pixels within 2 pixels (`metrics.BoundaryRule`)."""
        return self.value("boundary_f1")

    @property
    def per_image_miou(self) -> float:
        """Mean over images of the image's own mIoU; never comparable with `miou`."""
        return self.value("per_image_miou")

    @property
    def calibration_error(self) -> float:
        """Expected calibration error of the class scores."""
        return self.value("calibration_error")

    def value(self, metric: str) -> float:
        """A scalar metric in percent, or one class by "class_iou:NAME".

        Raises DataError for an unknown metric or class.
        """
        if metric.startswith(CLASS_PREFIX):
            return float(self.per_class.iloc[self._class_index(metric)])
        if metric == "per_image_miou":
            return 100 * metrics.per_image_mean_iou(self.counts)
        counts, name, _ = self.counts_for(metric)
        return 100 * float(intervals.METRICS[name](counts.sum(axis=0)))

    def interval(
        self, metric: str = "miou", level: float = 0.95, resamples: int = intervals.RESAMPLES
    ) -> Interval:
        """Interval over images in percent; "per_class" gives arrays (C,). NaN ends: too few images.

        `resamples` are the draws for "per_image_miou", a mean; the others are jackknife intervals
        (`intervals`). Raises DataError for an unknown metric, or if no image was counted.
        """
        key = (metric, level, resamples)
        if key not in self._intervals:
            self._intervals[key] = self._interval(*key)
        return self._intervals[key]

    @functools.cached_property
    def _intervals(self) -> dict[tuple, Interval]:
        return {}

    def _interval(self, metric: str, level: float, resamples: int) -> Interval:
        if metric == "per_image_miou":
            values = metrics.image_miou(self.counts)
            return _mean_interval(values, None, level, resamples).percent()
        counts, name, index = self.counts_for(metric)
        interval = intervals.interval(counts, level, name).percent()
        return interval if index is None else interval.of_class(index)

    def difference(
        self,
        other: "Report",
        metric: str = "miou",
        level: float = 0.95,
        resamples: int = intervals.RESAMPLES,
    ) -> Interval:
        """Interval of this metric minus the other's, in points, over the images that both counted.

        Raises DataError if the data sets differ or share no image.
        """
        if (self.dataset, self.names) != (other.dataset, other.names):
            raise DataError(
                f"cannot pair results on {self.dataset!r} and {other.dataset!r}: other images or classes"
            )
        _, places, other_places = np.intersect1d(self.indices, other.indices, return_indices=True)
        if metric == "per_image_miou":
            a, b = (
                metrics.image_miou(c) for c in (self.counts[places], other.counts[other_places])
            )
            return _mean_interval(a, b, level, resamples).percent()
        first, name, index = self.counts_for(metric)
        second, _, _ = other.counts_for(metric)
        gain = intervals.paired_difference(
            first[places], second[other_places], level, name
        ).percent()
        return gain if index is None else gain.of_class(index)

    def counts_for(self, metric: str) -> tuple[np.ndarray, str, int | None]:
        """What a metric is made of: per-image counts, its name in `intervals.METRICS`, and the class if it is one.

        Raises DataError for an unknown metric or class, and for "per_image_miou", which is not made of sums.
        """
        if metric == "per_image_miou":
            raise DataError(
                "per_image_miou is a mean over images, not made of summed counts; choose another"
            )
        if metric.startswith(CLASS_PREFIX):
            return self.counts, "per_class_iou", self._class_index(metric)
        if metric in ("per_class", "per_class_iou"):
            return self.counts, "per_class_iou", None
        if metric not in METRICS:
            choices = ", ".join([*METRICS, "per_class", f"{CLASS_PREFIX}NAME"])
            raise DataError(f"unknown metric {metric!r}; there are {choices}")
        if metric == "boundary_f1":
            return self.boundary_counts, metric, None
        if metric == "calibration_error":
            return self.calibration_counts, metric, None
        return self.counts, metric, None

    def _class_index(self, metric: str) -> int:
        name = metric.removeprefix(CLASS_PREFIX)
        if name not in self.names:
            raise DataError(
                f"no class {name!r} in {self.dataset}; there are {', '.join(self.names)}"
            )
        return self.names.index(name)

    def record(self) -> dict[str, Any]:
        """The report as plain values (JSON), without the counts: what the store keeps."""
        scores = {name: self._score(name) for name in METRICS}
        classes = self.interval("per_class") if self.images else None
        per_class = {
            name: _ends(classes.of_class(i)) if classes is not None else [None, None, None]
            for i, name in enumerate(self.names)
        }
        return {
            "model": self.model,
            "dataset": self.dataset,
            "images": self.images,
            "limit": self.limit,
            "skipped": [list(pair) for pair in self.skipped],
            "recipe": {
                "name": self.recipe.name,
                "dataset": self.recipe.dataset,
                "stages": self.recipe.resolved(),
            },
            "metrics": scores,
            "intervals": intervals.VERSION,
            "per_class": per_class,
            "seconds_per_image": _plain(self.seconds_per_image),
            "notes": list(self.notes),
            "provenance": self.provenance,
        }

    def _score(self, name: str) -> list[float | None]:
        """[value, low, high] in percent, None where there is nothing to measure."""
        if not self.images:
            return [None, None, None]
        return _ends(self.interval(name))

    def __repr__(self) -> str:
        return (
            f"<Report {self.recipe.name} with {self.model} on {self.dataset}, {self.images} images: "
            f"mIoU {self.miou:.2f} %>"
        )

    def _repr_html_(self) -> str:
        rows = []
        for name, title in METRICS.items():
            if self.images:
                interval = self.interval(name)
                text = (
                    intervals.written(interval.value, interval.low, interval.high, unit=" %")
                    or "nothing measured"
                )
            else:
                text = "nothing measured"
            rows.append(f"<tr><td>{title}</td><td>{text}</td></tr>")
        head = f"{self.recipe.name} with {self.model} on {self.dataset}, {self.images} images"
        more = [f"{len(self.skipped)} images were skipped"] if self.skipped else []
        foot = "".join(f"<p>{html.escape(note)}</p>" for note in [*self.notes, *more])
        return (
            f"<table><caption>{html.escape(head)}; 95 % intervals over images</caption>"
            f"{''.join(rows)}</table>{foot}"
        )


def _mean_interval(
    first: np.ndarray, second: np.ndarray | None, level: float, resamples: int
) -> Interval:
    """Interval of the mean of per-image values (or of a difference of two means), NaN left out."""
    if not len(first):
        raise DataError("no images, so no interval: evaluate at least one image")
    sides = [first] if second is None else [first, second]
    draws: list[list[np.ndarray]] = [[] for _ in sides]
    for block, start in enumerate(range(0, resamples, 250)):
        weights = intervals.draw_weights(len(first), min(250, resamples - start), 0, block)
        for side, values in zip(draws, sides, strict=True):
            valid = ~np.isnan(values)
            with np.errstate(invalid="ignore"):
                side.append(
                    (weights @ np.where(valid, values, 0)) / (weights @ valid.astype(float))
                )
    drawn = np.concatenate(draws[0])
    value = float(np.nanmean(first)) if not np.isnan(first).all() else float("nan")
    if second is not None:
        drawn = drawn - np.concatenate(draws[1])
        value -= float(np.nanmean(second)) if not np.isnan(second).all() else float("nan")
    drawn = drawn[~np.isnan(drawn)]
    tail = (1 - level) / 2
    enough = drawn.size and len(first) >= intervals.MINIMUM_PAIRED
    low, high = np.quantile(drawn, [tail, 1 - tail]) if enough else (np.nan, np.nan)
    return Interval(value, float(low), float(high), level, resamples)


def _plain(value: float | np.ndarray) -> float | None:
    """A number for JSON: rounded far below its meaning, None for NaN."""
    return None if value is None or np.isnan(value) else round(float(value), 6)


def _ends(interval: Interval) -> list[float | None]:
    """[value, low, high] of an interval of one number."""
    return [_plain(interval.value), _plain(interval.low), _plain(interval.high)]


def provenance(device: Any = "cpu") -> dict[str, Any]:
    """Commit, machine and versions that measure now; names no user and no host."""
    return {**_constant_provenance(), "device": _device_name(str(device))}


@functools.lru_cache(maxsize=1)
def _constant_provenance() -> dict[str, Any]:
    packages = ("torch", "numpy", "open_clip_torch", "opencv-python-headless", "pillow")
    versions = {"python": platform.python_version(), "ovsslib": _version("ovsslib")}
    versions |= {name: _version(name) for name in packages}
    return {
        "commit": commit(),
        "machine": f"{_processor()}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        "versions": versions,
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def commit() -> str:
    """Commit of the checkout that runs ("+" behind it: with changes), or "" for an installed wheel."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return ""

    def git(*words: str) -> str:
        result = subprocess.run(
            ["git", "-C", str(folder), *words],
            check=True,
            capture_output=True,
            text=True,
            timeout=20,
        )
        return result.stdout.strip()

    try:
        head = git("rev-parse", "--short=12", "HEAD")
        return head + ("+" if git("status", "--porcelain", "-uno", "--", "ovsslib") else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown processor"


def _device_name(device: str) -> str:
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    return device
