"""The failure miner: the worst objects of a data set by the cause that the thesis names (its
section 4.10, Figure 4.4).

Causes are told from the label maps alone, so that the search runs on every data set:

- small object: a connected part of a thing with fewer than 1,000 pixels, missed in part or whole;
- occlusion: parts of a thing in whose convex hull another thing lies that touches them (a person
  behind a tree);
- stuff-thing boundary: a thing predicted as the stuff that surrounds it (a rug taken for the
  floor);
- confusion: a region predicted as a class that the picture does not show.

An object is a connected part of a class; parts of one class that touch the same other thing count
as one object that the other thing cuts apart.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pandas as pd

from ovsslib.errors import DataError
from ovsslib.evaluation.predictions import Predictions, true_label
from ovsslib.study.error_analysis import SMALL_PIXELS, components, object_classes

SMALL, OCCLUSION, BOUNDARY, CONFUSION = (
    "small object",
    "occlusion",
    "stuff-thing boundary",
    "confusion",
)
CAUSES = (SMALL, OCCLUSION, BOUNDARY, CONFUSION)
SPECK_PIXELS = 30
"""Parts with fewer pixels are left out as slips of a label map rather than objects."""
HIDDEN_SHARE = 0.1
"""Share of an object's convex hull that another thing must cover for the object to count as
occluded."""
_TOUCH = np.ones((5, 5), dtype=np.uint8)
_COLUMNS = (
    "cause",
    "index",
    "name",
    "label",
    "predicted",
    "object_pixels",
    "wrong_pixels",
    "missed",
    "iou",
    "hidden",
    "top",
    "left",
    "bottom",
    "right",
)


@dataclass(frozen=True, eq=False)
class _Object:
    """A thing or a region of a label map: its class, its pixels, the share of its hull that others
    cover."""

    label: int
    pixels: np.ndarray
    hidden: float

    @property
    def size(self) -> int:
        return int(self.pixels.sum())


def mine(
    predictions: Predictions,
    per_cause: int = 3,
    causes: Sequence[str] = CAUSES,
    small: int = SMALL_PIXELS,
) -> pd.DataFrame:
    """The worst failures of a segmenter, by cause.

    Args:
        predictions: from :func:`ovsslib.evaluation.predictions.predict`.
        per_cause: how many of each cause, the worst first; every picture is shown once at most.
        causes: which, of `CAUSES`, in the order in which pictures are given to them.
        small: things with fewer pixels are small objects.

    Returns:
        One row per failure: cause; index, name (of the image); label, predicted (class of the
        object, and what most of its wrong pixels were taken for); object_pixels, wrong_pixels
        (those that the cause explains); missed (percent of the object's pixels that are wrong); iou
        (percent, of the class in this image); hidden (percent of the object's convex hull that
        another thing covers); top, left, bottom, right (its box, in pixels). Worst is the most
        wrong pixels, for small objects the largest missed share, then the most wrong pixels.

    Raises:
        DataError: an unknown cause.
    """
    for cause in causes:
        if cause not in CAUSES:
            raise DataError(f"unknown cause {cause!r}; there are {', '.join(CAUSES)}")
    by_cause: dict[str, list[tuple]] = {cause: [] for cause in causes}
    for index, mask, label in predictions.pairs():
        for cause, order, row in _failures(predictions, index, mask, label, small):
            if cause in by_cause:
                by_cause[cause].append((order, row))
    rows, pictures = [], set()
    for cause in causes:
        count = 0
        for _, row in sorted(by_cause[cause], key=lambda pair: pair[0]):
            if count < per_cause and row["index"] not in pictures:
                rows.append(row)
                pictures.add(row["index"])
                count += 1
    return pd.DataFrame(rows, columns=list(_COLUMNS))


def _failures(
    predictions: Predictions, index: int, mask: np.ndarray, label: np.ndarray, small: int
) -> Iterator[tuple[str, tuple, dict[str, Any]]]:
    """(cause, order, row) of every object of an image that is wrong somewhere."""
    words, ignore = predictions.vocabulary, predictions.dataset.ignore_index
    things = set(object_classes(words))
    present = set(np.unique(label[label != ignore]).tolist())
    for item in objects(label, sorted(things), ignore):
        wrong = item.pixels & (mask != label)
        if not wrong.any():
            continue
        if item.label in things:
            if item.size < small:
                yield _row(predictions, SMALL, index, mask, label, item, wrong)
            elif item.hidden >= HIDDEN_SHARE:
                yield _row(predictions, OCCLUSION, index, mask, label, item, wrong)
            around = surrounding(label, item.pixels, present - things, ignore)
            swallowed = item.pixels & (mask == around) if around is not None else None
            if swallowed is not None and swallowed.any():
                yield _row(predictions, BOUNDARY, index, mask, label, item, swallowed)
        if item.size >= small:
            absent = wrong & ~np.isin(mask, list(present))
            if absent.any():
                values, counts = np.unique(mask[absent], return_counts=True)
                most = absent & (mask == values[counts.argmax()])
                yield _row(predictions, CONFUSION, index, mask, label, item, most)


def objects(label: np.ndarray, things: Sequence[int], ignore: int = 255) -> list[_Object]:
    """Objects and regions of a label map, of `SPECK_PIXELS` pixels at least, classes in rising
    order.

    Connected parts of every class; parts of a thing that touch one and the same part of another
    thing are joined.
    """
    parts: list[tuple[int, np.ndarray]] = []
    for value in np.unique(label[label != ignore]):
        numbers, sizes = components(label == value)
        parts += [
            (int(value), numbers == n) for n in range(1, len(sizes)) if sizes[n] >= SPECK_PIXELS
        ]
    solid = [i for i, (value, _) in enumerate(parts) if value in things]
    touching = {i: cv2.dilate(parts[i][1].astype(np.uint8), _TOUCH).astype(bool) for i in solid}
    joined = {i: i for i in range(len(parts))}
    for cutter in solid:
        cut: dict[int, int] = {}
        for i in solid:
            same = parts[i][0]
            if same != parts[cutter][0] and (touching[cutter] & parts[i][1]).any():
                first = cut.setdefault(same, i)
                old, new = joined[i], joined[first]
                joined = {part: new if root == old else root for part, root in joined.items()}
    result = []
    for root in dict.fromkeys(joined.values()):
        members = [i for i in joined if joined[i] == root]
        value = parts[root][0]
        pixels = np.logical_or.reduce([parts[i][1] for i in members])
        hidden = hidden_share(label, pixels, value, things) if value in things else 0.0
        result.append(_Object(value, pixels, hidden))
    return result


def hidden_share(label: np.ndarray, pixels: np.ndarray, value: int, things: Sequence[int]) -> float:
    """Share 0..1 of an object's convex hull where other things lie."""
    points = np.argwhere(pixels)[:, ::-1].astype(np.int32)
    hull = np.zeros(pixels.shape, dtype=np.uint8)
    cv2.fillConvexPoly(hull, cv2.convexHull(points), 1)
    other_things = np.isin(label, [thing for thing in things if thing != value])
    return float((hull.astype(bool) & other_things).sum() / hull.sum())


def surrounding(
    label: np.ndarray, pixels: np.ndarray, stuff: set[int], ignore: int = 255
) -> int | None:
    """The class of stuff that takes most of the rim around an object; None if no stuff does."""
    rim = cv2.dilate(pixels.astype(np.uint8), _TOUCH).astype(bool) & ~pixels
    values, counts = np.unique(label[rim & (label != ignore)], return_counts=True)
    near = [
        (count, int(value)) for value, count in zip(values, counts, strict=True) if value in stuff
    ]
    return max(near)[1] if near else None


def _row(
    predictions: Predictions,
    cause: str,
    index: int,
    mask: np.ndarray,
    label: np.ndarray,
    item: _Object,
    wrong: np.ndarray,
) -> tuple[str, tuple, dict[str, Any]]:
    """Cause, place in the order of its kind, and the row that :func:`mine` describes."""
    names = predictions.vocabulary.names
    values, counts = np.unique(mask[wrong], return_counts=True)
    missed = float((item.pixels & (mask != label)).sum() / item.size)
    count = int(wrong.sum())
    rows, columns = np.nonzero(item.pixels)
    top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
    row = {
        "cause": cause,
        "index": index,
        "name": image_name(predictions.dataset, index),
        "label": names[item.label],
        "predicted": names[int(values[counts.argmax()])],
        "object_pixels": item.size,
        "wrong_pixels": count,
        "missed": 100 * missed,
        "iou": class_iou(mask, label, item.label, predictions.dataset.ignore_index),
        "hidden": 100 * item.hidden,
        "top": int(top),
        "left": int(left),
        "bottom": int(bottom),
        "right": int(right),
    }
    # A small object that is missed whole comes before a larger one that is missed in part.
    order = (-round(missed, 3), -count, index) if cause == SMALL else (-count, index)
    return cause, order, row


def image_name(dataset: Any, index: int) -> str:
    """Name of an image of a data set, without reading it where that is possible."""
    items = getattr(dataset, "items", None)
    return items[index].name if items else str(dataset[index][2])


def class_iou(mask: np.ndarray, label: np.ndarray, value: int, ignore: int = 255) -> float:
    """IoU of one class in one image, percent; NaN if it is neither labelled nor predicted."""
    labelled = label != ignore
    union = labelled & ((mask == value) | (label == value))
    intersection = labelled & (mask == value) & (label == value)
    return 100 * float(intersection.sum()) / float(union.sum()) if union.any() else float("nan")


def figure_masks(
    case: Mapping[str, Any] | pd.Series, predictions: Sequence[Predictions]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """What a figure of one failure shows: the picture, and label maps under their titles.

    Args:
        case: a row of :func:`mine`.
        predictions: of the recipes to be shown (the thesis: baseline and full system), of one data
            set.

    Returns:
        The picture (H, W, 3) uint8, and title -> label map (H, W): the ground truth, then each
        recipe with the IoU of the failing class in this image; as
        :func:`ovsslib.book.figures.mask_panel` takes them.

    Raises:
        DataError: no predictions, or two of one name.
    """
    names = [entry.name for entry in predictions]
    if not names or len(set(names)) < len(names):
        raise DataError(f"give predictions of recipes with different names, not {names}")
    first, index = predictions[0], int(case["index"])
    image = first.dataset[index][0]
    label = true_label(first.dataset, index)
    class_index = first.vocabulary.names.index(case["label"])
    masks = {f"ground truth: {case['label']}": label}
    for entry in predictions:
        mask = entry.mask(index)
        iou = class_iou(mask, label, class_index, entry.dataset.ignore_index)
        masks[f"{entry.name}: IoU {iou:.0f} %"] = mask
    return image, masks


def compare(cases: pd.DataFrame, predictions: Sequence[Predictions]) -> pd.DataFrame:
    """How several recipes do on the failures of one: the cases with a column "iou: RECIPE"
    (percent) for each."""
    frame = cases.copy()
    for entry in predictions:
        values = []
        for case in cases.to_dict("records"):
            label = true_label(entry.dataset, case["index"])
            class_index = entry.vocabulary.names.index(case["label"])
            mask = entry.mask(case["index"])
            values.append(class_iou(mask, label, class_index, entry.dataset.ignore_index))
        frame[f"iou: {entry.name}"] = values
    return frame
