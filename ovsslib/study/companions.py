"""Pictures in which two classes meet, and what a step does to one of them picture by picture (thesis, Figure 4.2).

The thesis shows a ball player and a cyclist. Which pictures those are is told by the label maps, and where a step helps
and where it does not is told by the counts that every evaluation keeps of each image.
"""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import pandas as pd

from ovsslib.errors import DataError
from ovsslib.evaluation.predictions import true_label
from ovsslib.evaluation.report import Report


def meeting(
    dataset: Any, word: str, others: Sequence[str], distance: int = 2, least: float = 0.01
) -> list[int]:
    """Places of the images in which a class comes near one of others, in the data set's order.

    Args:
        word: the class; it must cover the share `least` of an image.
        others: names, of which the data set may lack some; none of them: an empty list.
        distance: pixels between the two masks at most.

    Raises DataError if the data set has no class `word`.
    """
    names = list(dataset.vocabulary.names)
    if word not in names:
        raise DataError(f"no class {word!r}; there are {', '.join(names)}")
    numbers = [names.index(companion) for companion in others if companion in names]
    side = 2 * distance + 1
    near = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    places = []
    for index in range(len(dataset)) if numbers else ():
        label = true_label(dataset, index)
        word_mask = label == names.index(word)
        near_mask = np.isin(label, numbers)
        if word_mask.mean() >= least and near_mask.any():
            grown = cv2.dilate(word_mask.astype(np.uint8), near)
            if (grown.astype(bool) & near_mask).any():
                places.append(index)
    return places


def class_iou_by_image(report: Report, word: str) -> np.ndarray:
    """IoU of a class in each image by itself, (N,) percent; NaN where it neither is nor is found.

    Raises DataError if the report has no class `word`.
    """
    if word not in report.names:
        raise DataError(f"no class {word!r}; there are {', '.join(report.names)}")
    intersection, predicted, labelled = report.counts[:, :, report.names.index(word)].T.astype(
        float
    )
    union = predicted + labelled - intersection
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(union > 0, 100 * intersection / union, np.nan)


def changes_by_image(
    report: Report, base: Report, images: Sequence[int], word: str = "person"
) -> pd.DataFrame:
    """What a recipe changes for a class in some images: image, before, after (IoU, percent), change (points).

    The largest gain comes first and the largest loss last; images without the class are left out.
    """
    chosen = np.asarray(images, dtype=int)
    before, after = (class_iou_by_image(side, word)[chosen] for side in (base, report))
    frame = pd.DataFrame({"image": chosen, "before": before, "after": after})
    frame["change"] = frame["after"] - frame["before"]
    return frame.dropna().sort_values("change", ascending=False, kind="stable", ignore_index=True)
