"""Do confidences mean anything: reliability curves, and one temperature fitted on some images.

Guo et al., On Calibration of Modern Neural Networks, ICML 2017. The counts are those of `metrics.calibration_counts`.
"""

from typing import Any

import numpy as np
import pandas as pd
import torch

from ovsslib.errors import DataError
from ovsslib.evaluation import metrics
from ovsslib.segmenter import Segmenter
from ovsslib.stages.calibration import fit_temperature


def reliability_curve(counts: np.ndarray) -> pd.DataFrame:
    """Accuracy by confidence: what :func:`ovsslib.book.figures.reliability` draws.

    Args:
        counts: (..., bins, 3) as `metrics.calibration_counts` gives them; leading axes (images) are summed.

    Returns:
        One row per bin: confidence (its pixels' mean, or the bin's middle if it has none), accuracy (NaN without
        pixels), share of all pixels; all 0 to 1.

    Raises:
        DataError: counts of another shape, or without a pixel.
    """
    counts = np.asarray(counts)
    if counts.ndim < 2 or counts.shape[-1] != 3:
        raise DataError(f"calibration counts have shape (..., bins, 3), not {counts.shape}")
    total = counts.reshape(-1, *counts.shape[-2:]).sum(axis=0).astype(np.float64)
    pixels, right, units = total.T
    if not pixels.sum():
        raise DataError("no pixel was counted, so there is no curve")
    filled = pixels > 0
    bins = len(pixels)
    confidence = (np.arange(bins) + 0.5) / bins
    confidence[filled] = units[filled] / pixels[filled] / metrics.CONFIDENCE_UNIT
    accuracy = np.full(bins, np.nan)
    accuracy[filled] = right[filled] / pixels[filled]
    return pd.DataFrame(
        {"confidence": confidence, "accuracy": accuracy, "share": pixels / pixels.sum()}
    )


def fitted_temperature(
    segmenter: Segmenter, dataset: Any, images: int = 10, pixels: int = 4000, seed: int = 0
) -> float:
    """The one temperature that makes the labels of some images most likely under a segmenter's scores.

    It belongs behind the scores: `calibration={"mode": "fixed", "when": "after", "temperature": T}`. It looks at
    labels, so report what it does on other images than these.

    Args:
        segmenter: whose class scores are fitted.
        dataset: a Sequence of (image, label, name), with `vocabulary` and `ignore_index`.
        images: its first so many images. pixels: drawn from each of them, by `seed`.

    Raises:
        DataError: fewer images than asked for, or none with a labelled pixel.
    """
    if not 0 < images <= len(dataset):
        raise DataError(f"images={images}: the data set has {len(dataset)}")
    vocabulary = segmenter.recipe["text"].vocabulary(dataset.vocabulary)
    text = segmenter.text(vocabulary, share=False)
    random = np.random.default_rng(seed)
    parts, labels = [], []
    for index in range(images):
        image, label = dataset[index][:2]
        scores = segmenter.segment(image, text, keep_scores=True).scores
        assert scores is not None  # asked for
        labelled = np.flatnonzero(label != dataset.ignore_index)
        chosen = random.choice(labelled, min(pixels, len(labelled)), replace=False)
        parts.append(scores.reshape(len(scores), -1)[:, chosen])
        labels.append(label.ravel()[chosen])
    if not sum(len(part) for part in labels):
        raise DataError(f"none of the first {images} images has a labelled pixel")
    # the scores' logarithms are logits up to a constant per pixel, which the softmax does not see
    logits = torch.from_numpy(np.concatenate(parts, axis=1)).clamp_min(1e-12).log()
    return fit_temperature(logits, torch.from_numpy(np.concatenate(labels)).long())
