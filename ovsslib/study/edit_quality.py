"""How good masks are for editing: how much of an edit lands on the right object."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ovsslib.clip.memory import FreeMemory
from ovsslib.datasets.dataset import SegmentationDataset
from ovsslib.editing.edits import mask_for
from ovsslib.errors import RecipeError, WordsError
from ovsslib.evaluation.intervals import draw_weights
from ovsslib.segmenter import Segmenter

_RESAMPLES = 2000


def edit_precision(mask: np.ndarray, truth: np.ndarray) -> float:
    """Share of the edited pixels that lie on the right object, 0 to 1; NaN for an empty mask.

    mask: (H, W) weights, so that a half-edited pixel counts half. truth: (H, W) bool.
    """
    return _share(float((mask * truth).sum()), float(np.sum(mask)))


def edit_recall(mask: np.ndarray, truth: np.ndarray) -> float:
    """Share of the object's pixels that are edited, 0 to 1; NaN without an object. Arguments as
    :func:`edit_precision`."""
    return _share(float((mask * truth).sum()), float(np.sum(truth)))


def measure_edits(
    segmenters: Mapping[str, Segmenter],
    dataset: SegmentationDataset,
    masks: Mapping[str, Mapping[str, Any]] | None = None,
    kinds: Sequence[str] = ("thing",),
    min_pixels: int = 50,
    seed: int = 0,
    baseline: str | None = None,
) -> pd.DataFrame:
    """Edit precision and recall over a data set, as if every object were edited by its word.

    An edit is one class of one picture that truly has at least `min_pixels` pixels. Weights are
    summed over all edits before dividing, so that large edits count more, as they do to the eye.

    Args:
        segmenters: title -> segmenter; all data set words are offered to each.
        dataset: pictures with label maps.
        masks: title -> settings of :func:`mask_for`; default: one entry without any.
        kinds: kinds of classes that are edited ("thing", "stuff", "material").
        seed: of the bootstrap over pictures.
        baseline: title of a segmenter that the others are compared with, on the same draws.

    Returns:
        A row per segmenter and kind of mask: recipe, mask, edits, missed (edits whose mask is
        empty), precision, precision_low, precision_high (percent, 95% interval over pictures),
        recall, recall_low, recall_high; with a baseline also precision_gain, precision_gain_low,
        precision_gain_high (points over the baseline with the same kind of mask, paired), and the
        same of recall.

    Raises:
        RecipeError: `baseline` is none of the segmenters.
    """
    if baseline is not None and baseline not in segmenters:
        raise RecipeError(f"baseline {baseline!r} is not among {', '.join(segmenters)}")
    masks = {"as segmented": {}} if masks is None else masks
    keep_scores = any(settings.get("confidence") is not None for settings in masks.values())
    sums = {(s, m): np.zeros((len(dataset), 3)) for s in segmenters for m in masks}
    edits, missed = 0, dict.fromkeys(sums, 0)
    texts = {}
    for title, segmenter in segmenters.items():
        texts[title] = segmenter.text(
            segmenter.recipe["text"].vocabulary(dataset.vocabulary), share=False
        )
    memory = FreeMemory()
    for index in range(len(dataset)):
        memory.between_pictures()
        image, label, _ = dataset[index]
        objects = _objects(label, dataset, kinds, min_pixels)
        edits += len(objects)
        for title, segmenter in segmenters.items():
            result = segmenter.segment(image, texts[title], keep_scores)
            for object_label in objects:
                truth, valid = label == object_label, label != dataset.ignore_index
                for name, settings in masks.items():
                    try:
                        mask = mask_for(result, result.names[object_label], **settings) * valid
                    except WordsError:
                        mask = np.zeros(label.shape, dtype=np.float32)
                        missed[title, name] += 1
                    sums[title, name][index] += (mask * truth).sum(), mask.sum(), truth.sum()
    return _table(sums, edits, missed, seed, baseline)


def _objects(
    label: np.ndarray, dataset: SegmentationDataset, kinds: Sequence[str], min_pixels: int
) -> list[int]:
    """Labels of a picture's classes that are worth an edit."""
    vocabulary = dataset.vocabulary
    present, counts = np.unique(label[label != dataset.ignore_index], return_counts=True)
    return [
        int(value)
        for value, count in zip(present, counts, strict=True)
        if count >= min_pixels
        and vocabulary.kinds[value] in kinds
        and value != vocabulary.background
    ]


def _share(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def _table(
    sums: Mapping[tuple[str, str], np.ndarray],
    edits: int,
    missed: Mapping[tuple[str, str], int],
    seed: int,
    baseline: str | None,
) -> pd.DataFrame:
    """Rows from the sums (pictures, 3) of hit, edited and true weight per segmenter and mask."""
    pictures = len(next(iter(sums.values())))
    # the first row of the weights is the data set itself, the others are draws from it
    weights = np.vstack([np.ones(pictures), draw_weights(pictures, _RESAMPLES, seed, 0)])
    shares = {key: _shares(weights @ counts) for key, counts in sums.items()}
    rows = []
    for (title, name), columns in shares.items():
        row = {"recipe": title, "mask": name, "edits": edits, "missed": missed[title, name]}
        for column, values in columns.items():
            row |= _interval(column, values)
        if baseline is not None:
            for column, values in columns.items():
                row |= _interval(f"{column}_gain", values - shares[baseline, name][column])
        rows.append(row)
    return pd.DataFrame(rows)


def _shares(sums: np.ndarray) -> dict[str, np.ndarray]:
    """Sums (draws, 3) of hit, edited and true weight -> percent per draw, NaN where none is."""
    hit, edited, true = sums.T
    with np.errstate(invalid="ignore"):
        return {"precision": 100 * hit / edited, "recall": 100 * hit / true}


def _interval(column: str, values: np.ndarray) -> dict[str, float]:
    """Value of the data set (first) with the 95% percentile interval of the draws that have one."""
    draws = values[1:][~np.isnan(values[1:])]
    low, high = np.quantile(draws, (0.025, 0.975)) if draws.size else (np.nan, np.nan)
    return {column: float(values[0]), f"{column}_low": float(low), f"{column}_high": float(high)}
