"""Persons taken apart: how much of heads, torsos, arms and legs is found (thesis, section 3.3).

IoU of the class "person" does not tell whether limbs are lost. Where a data set has masks of parts (Scenes has:
`parts/<split>/<name>.png`), the recall of each part does.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ovsslib.datasets.dataset import read_mask
from ovsslib.errors import DataError
from ovsslib.evaluation import intervals
from ovsslib.evaluation.predictions import Predictions, true_label

PARTS = ("head", "torso", "arms", "legs")
"""Parts by their value in a mask of parts, from 1 on; 0 is everything else."""


def part_file(dataset: Any, index: int) -> Path | None:
    """The mask of parts of an image, or None if it has none."""
    mask = dataset.paths(index)[1]
    file = mask.parents[2] / "parts" / mask.parent.name / f"{mask.stem}.png"
    return file if file.is_file() else None


def has_parts(dataset: Any) -> bool:
    """Whether the images of a data set come with masks of the parts of persons."""
    return len(dataset) > 0 and all(part_file(dataset, i) for i in range(len(dataset)))


def part_map(dataset: Any, index: int) -> np.ndarray:
    """Parts of persons in an image, (H, W) uint8, values as in `PARTS`. Raises DataError if there are none."""
    file = part_file(dataset, index)
    if file is None:
        raise DataError(
            f"{dataset.name!r} has no masks of the parts of persons; the data sets of Scenes have"
        )
    return read_mask(file)


def pictures_of(dataset: Any, word: str, count: int, or_first: bool = False) -> list[int]:
    """Places of the images that show most of a class, the largest area first; at most `count`.

    or_first: where no image shows it, the first image stands in, and a printed line says so.

    Raises DataError if the data set has no such class, or if no image shows it (without `or_first`).
    """
    which = _class_of(dataset.vocabulary, word)
    areas = np.array([int((true_label(dataset, i) == which).sum()) for i in range(len(dataset))])
    order = np.argsort(-areas, kind="stable")
    chosen = [int(i) for i in order[:count] if areas[i]]
    if not chosen and or_first:
        print(
            f"None of these {len(dataset)} images shows {word!r}: the first one stands in; raise the limit."
        )
        return [0]
    if not chosen:
        raise DataError(f"none of the {len(dataset)} images shows {word!r}; raise the limit")
    return chosen


def part_recall(predictions: Mapping[str, Predictions], word: str = "person") -> pd.DataFrame:
    """Share of each part's pixels that got the word, for one or several segmenters on the same images.

    Args:
        predictions: by the name that tables print, of :func:`ovsslib.evaluation.predictions.predict`; the first
            is the baseline of the others.

    Returns:
        One row per segmenter and part: recipe, part, value, low, high (percent, 95% interval over images),
        difference, difference_low, difference_high (points, paired, NaN for the baseline), verdict, images
        (with a person).

    Raises DataError if the data set has no masks of parts or no class `word`.
    """
    if not predictions:
        raise DataError("no predictions, so no recall: give those of at least one segmenter")
    dataset = next(iter(predictions.values())).dataset
    shown = [(i, part_map(dataset, i)) for i in range(len(dataset))]
    shown = [(i, parts) for i, parts in shown if parts.any()]
    if not shown:
        raise DataError(f"none of the {len(dataset)} images shows a person; raise the limit")
    counts = {name: _counts(prediction, shown, word) for name, prediction in predictions.items()}
    first, rows = next(iter(counts.values())), []
    for name, recipe_counts in counts.items():
        for place, part in enumerate(PARTS):
            part_counts = recipe_counts[:, :, place : place + 1]
            interval = intervals.interval(part_counts, metric="mean_accuracy").percent()
            row: dict[str, Any] = {"recipe": name, "part": part}
            row |= {"value": interval.value, "low": interval.low, "high": interval.high}
            row |= {"difference": np.nan, "difference_low": np.nan, "difference_high": np.nan}
            row["verdict"] = ""
            if recipe_counts is not first:
                base = first[:, :, place : place + 1]
                gain = intervals.paired_difference(
                    part_counts, base, metric="mean_accuracy"
                ).percent()
                row |= {"difference": gain.value, "difference_low": gain.low}
                row |= {
                    "difference_high": gain.high,
                    "verdict": intervals.verdict(gain, "mean_accuracy"),
                }
            rows.append(row | {"images": len(shown)})
    return pd.DataFrame(rows)


def part_table(recall: pd.DataFrame) -> pd.DataFrame:
    """:func:`part_recall` for people: a row per recipe and one for each comparison, a column per part, as text.

    Where no value has an interval, none of them says so in its cell.
    """
    bare = bool(recall["low"].isna().all())
    cells: dict[str, dict[str, str]] = {}
    for row in recall.to_dict("records"):
        name, part = row["recipe"], row["part"]
        text = intervals.written(row["value"], row["low"], row["high"], ".1f", " %")
        if bare:
            text = text.removesuffix(f" ({intervals.TOO_FEW})")
        cells.setdefault(name, {})[part] = text
        if row["verdict"]:
            ends = row["difference_low"], row["difference_high"]
            gain = intervals.written(row["difference"], *ends, "+.1f")
            comparison = cells.setdefault(f"{name}, against the first row (points)", {})
            comparison[part] = f"{gain}: {row['verdict']}"
    frame = pd.DataFrame.from_dict(cells, orient="index")
    frame.index.name = f"recall, {int(recall['images'].max())} images with persons"
    return frame


def _counts(predictions: Predictions, shown: list[tuple[int, np.ndarray]], word: str) -> np.ndarray:
    """(N, 3, parts) int64: per image hits, hits, labelled pixels; recall needs no false alarms."""
    class_index = _class_of(predictions.vocabulary, word)
    rows = []
    for index, parts in shown:
        person = predictions.mask(index) == class_index
        labelled = np.bincount(parts.ravel(), minlength=len(PARTS) + 1)[1:]
        hits = np.bincount(parts[person], minlength=len(PARTS) + 1)[1:]
        rows.append([hits, hits, labelled])
    return np.array(rows, dtype=np.int64)


def _class_of(vocabulary: Any, word: str) -> int:
    if word not in vocabulary.names:
        raise DataError(f"no class {word!r}; there are {', '.join(vocabulary.names)}")
    return vocabulary.names.index(word)
