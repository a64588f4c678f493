"""Accuracy of label maps, from integer counts that add up over images.

Everything is counted in int64, so the order of images, workers and processes changes nothing, and
an interval can be made from the counts alone. All metrics here are fractions 0..1, NaN where there
is nothing to measure; reports multiply by 100.

A *counts* array has shape (..., 3, C), rows in the order intersection, prediction, label: per class
the pixels that are rightly that class, that are predicted so, and that are labelled so, ignored
pixels left out. Leading axes (images, bootstrap resamples) are kept by every function that takes
one.

The data-set metrics are those of mmsegmentation's IoUMetric (and hence of the published tables).
"""

from dataclasses import dataclass

import cv2
import numpy as np

from ovsslib.errors import DataError

INTERSECTION, PREDICTION, LABEL = 0, 1, 2
CALIBRATION_BINS = 15
CONFIDENCE_UNIT = 1_000_000
"""Confidences are summed as whole millionths, since integer sums do not depend on their order."""


class ConfusionMatrix:
    """Pixels by (label, predicted class), int64 (C, C), summed over a data set."""

    def __init__(self, classes: int):
        if not isinstance(classes, (int, np.integer)) or classes < 1:
            raise DataError(f"a confusion matrix needs at least 1 class, not {classes}")
        self.classes = classes
        self.matrix = np.zeros((classes, classes), dtype=np.int64)

    def update(self, prediction: np.ndarray, label: np.ndarray, ignore: int = 255) -> np.ndarray:
        """Add one image; returns the image's own counts, (3, C) int64.

        `prediction` and `label` are integer maps of one shape; pixels labelled `ignore` do not
        count, whatever is predicted there. Raises DataError for other shapes, types, or classes
        outside 0..C-1.
        """
        matrix = confusion(prediction, label, self.classes, ignore)
        self.matrix += matrix
        return counts_of(matrix)

    def merge(self, other: "ConfusionMatrix") -> None:
        """Add what another matrix (another process) has counted."""
        if other.classes != self.classes:
            raise DataError(f"cannot add counts of {other.classes} classes to {self.classes}")
        self.matrix += other.matrix

    @property
    def counts(self) -> np.ndarray:
        """Counts of the whole data set, (3, C) int64."""
        return counts_of(self.matrix)


def confusion(
    prediction: np.ndarray, label: np.ndarray, classes: int, ignore: int = 255
) -> np.ndarray:
    """Confusion matrix of one image, (C, C) int64, rows = label, columns = prediction."""
    prediction, label = np.asarray(prediction), np.asarray(label)
    if prediction.shape != label.shape:
        raise DataError(f"prediction {prediction.shape} and label {label.shape} differ in size")
    for name, values in (("prediction", prediction), ("label", label)):
        if values.dtype.kind not in "iub":
            raise DataError(f"the {name} must hold whole numbers, not {values.dtype}")
    valid = label != ignore
    prediction, label = prediction[valid].astype(np.int64), label[valid].astype(np.int64)
    for name, values in (("prediction", prediction), ("label", label)):
        if values.size and (values.min() < 0 or values.max() >= classes):
            raise DataError(
                f"the {name} holds classes {values.min()}..{values.max()}; "
                f"with {classes} classes they are 0..{classes - 1} (ignored: {ignore})"
            )
    return np.bincount(label * classes + prediction, minlength=classes**2).reshape(classes, classes)


def counts_of(matrix: np.ndarray) -> np.ndarray:
    """Counts (..., 3, C) of confusion matrices (..., C, C)."""
    return np.stack(
        [np.diagonal(matrix, axis1=-2, axis2=-1), matrix.sum(axis=-2), matrix.sum(axis=-1)], axis=-2
    )


def image_counts(
    prediction: np.ndarray, label: np.ndarray, classes: int, ignore: int = 255
) -> np.ndarray:
    """Counts of one image, (3, C) int64."""
    return counts_of(confusion(prediction, label, classes, ignore))


def per_class_iou(counts: np.ndarray) -> np.ndarray:
    """IoU of each class, (..., C): I / (P + G - I); NaN for a class neither predicted nor
    labelled."""
    intersection, prediction, label = _rows(counts)
    return _ratio(intersection, prediction + label - intersection)


def miou(counts: np.ndarray) -> np.ndarray:
    """Mean IoU over the classes that occur in label or prediction, (...)."""
    return _mean_of_known(per_class_iou(counts))


def per_class_accuracy(counts: np.ndarray) -> np.ndarray:
    """Recall of each class, (..., C): I / G; NaN for a class that is not labelled."""
    intersection, _, label = _rows(counts)
    return _ratio(intersection, label)


def mean_accuracy(counts: np.ndarray) -> np.ndarray:
    """Mean of the class accuracies over the labelled classes, (...); mAcc of mmsegmentation."""
    return _mean_of_known(per_class_accuracy(counts))


def pixel_accuracy(counts: np.ndarray) -> np.ndarray:
    """Share of the labelled pixels that are right, (...); aAcc of mmsegmentation."""
    intersection, _, label = _rows(counts)
    return _ratio(intersection.sum(axis=-1), label.sum(axis=-1))


def frequency_weighted_iou(counts: np.ndarray) -> np.ndarray:
    """IoU of the classes weighted by their share of the labelled pixels, (...)."""
    _, _, label = _rows(counts)
    weighted = label * np.nan_to_num(per_class_iou(counts))
    return _ratio(weighted.sum(axis=-1), label.sum(axis=-1))


def image_miou(counts: np.ndarray) -> np.ndarray:
    """Of each image, the mean IoU over the classes in its label map, (N,) from counts (N, 3, C).

    A class that is predicted but not labelled costs nothing directly; NaN for an image without
    labels.
    """
    _, _, label = _rows(counts)
    return _mean_of_known(np.where(label > 0, per_class_iou(counts), np.nan))


def per_image_mean_iou(counts: np.ndarray) -> float:
    """Mean of `image_miou` over the images that have labels, from counts (N, 3, C).

    Some code reports this as mIoU. It is usually higher and never comparable with `miou` of
    published tables.
    """
    return float(_mean_of_known(image_miou(counts)))


@dataclass(frozen=True)
class BoundaryRule:
    """How `boundary_counts` counts.

    A boundary pixel is one whose right or lower neighbour has another label. A boundary pixel of
    one map is matched if the other map has one within `tolerance` pixels (Euclidean; a dilation
    with a disk).

    Pixels labelled `ignore` are taken out, except that ignored pixels within `band` pixels of a
    labelled one first take the nearest label: data sets such as PASCAL VOC ignore a band around
    every object, so that otherwise no boundary of the label map were left. There, predicted
    boundaries count if they match and are not held against the prediction if they do not.
    """

    tolerance: int = 2
    band: int = 5

    def __post_init__(self) -> None:
        for name in ("tolerance", "band"):
            value = getattr(self, name)
            if type(value) is not int or value < 0:
                raise DataError(f"{name}={value!r}: give a whole number of pixels of at least 0")


@dataclass(frozen=True, eq=False)
class BoundaryPixels:
    """The boundary pixels of one image, as :class:`BoundaryRule` sees them: maps (H, W) bool.

    Attributes:
        predicted: those of the prediction that count; hit: those of them that are matched.
        true: those of the label map; found: those of them that are matched.
        near_true, near_predicted: all pixels within the tolerance of a boundary pixel of the label
            map, of the prediction.
    """

    predicted: np.ndarray
    hit: np.ndarray
    true: np.ndarray
    found: np.ndarray
    near_true: np.ndarray
    near_predicted: np.ndarray


def boundary_pixels(
    prediction: np.ndarray,
    label: np.ndarray,
    ignore: int = 255,
    rule: BoundaryRule | None = None,
) -> BoundaryPixels:
    """Which pixels of one image :func:`boundary_counts` counts.

    prediction, label: (H, W) of whole numbers. Raises DataError if their shapes differ.
    """
    rule = rule or BoundaryRule()
    prediction, label = np.asarray(prediction), np.asarray(label)
    if prediction.shape != label.shape or label.ndim != 2:
        raise DataError(
            f"prediction {prediction.shape} and label {label.shape} must be equal (H, W)"
        )
    if label.size == 0:
        return BoundaryPixels(*[np.zeros(label.shape, dtype=bool)] * 6)
    labelled = label != ignore
    filled, near = _fill_band(label, labelled, rule.band)
    true = _boundary(filled, near)
    predicted = _boundary(prediction, near)
    near_true = _dilate(true, rule.tolerance)
    near_predicted = _dilate(predicted, rule.tolerance)
    hit = predicted & near_true
    counted = hit | (predicted & labelled)
    return BoundaryPixels(counted, hit, true, true & near_predicted, near_true, near_predicted)


def boundary_counts(
    prediction: np.ndarray,
    label: np.ndarray,
    ignore: int = 255,
    rule: BoundaryRule | None = None,
) -> np.ndarray:
    """Boundary pixels of one image, (4,) int64: matched predicted, all predicted, matched true, all
    true.

    The definition is :class:`BoundaryRule`'s; classes play no part beyond where they change.
    """
    pixels = boundary_pixels(prediction, label, ignore, rule)
    maps = pixels.hit, pixels.predicted, pixels.found, pixels.true
    return np.array([boundary.sum() for boundary in maps], dtype=np.int64)


def boundary_f1(counts: np.ndarray) -> np.ndarray:
    """F1 of the boundaries, (...) from counts (..., 4) summed over images; NaN without any
    boundary."""
    counts = np.asarray(counts, dtype=np.float64)
    precision = _ratio(counts[..., 0], counts[..., 1])
    recall = _ratio(counts[..., 2], counts[..., 3])
    nothing = (counts[..., 1] == 0) & (counts[..., 3] == 0)
    precision, recall = np.nan_to_num(precision), np.nan_to_num(recall)
    score = np.nan_to_num(_ratio(2 * precision * recall, precision + recall))
    return np.where(nothing, np.nan, score)[()]


def calibration_counts(
    confidence: np.ndarray,
    prediction: np.ndarray,
    label: np.ndarray,
    ignore: int = 255,
    bins: int = CALIBRATION_BINS,
) -> np.ndarray:
    """Pixels of one image by confidence, (bins, 3) int64: pixels, right pixels, summed confidence.

    `confidence` (H, W) is the probability 0..1 of the predicted class; bin b holds [b, b + 1) /
    bins, the last one 1.0 as well. Confidences are summed in millionths. Raises DataError for
    values outside 0..1.
    """
    if type(bins) is not int or bins < 1:
        raise DataError(f"bins={bins!r}: give a whole number of at least 1")
    confidence = np.asarray(confidence, dtype=np.float64)
    prediction, label = np.asarray(prediction), np.asarray(label)
    if not confidence.shape == prediction.shape == label.shape:
        raise DataError(
            f"confidence {confidence.shape}, prediction {prediction.shape} and label {label.shape} "
            "differ in size"
        )
    valid = label != ignore
    values = confidence[valid]
    # Softmax in half or single precision may exceed 1 by a rounding error.
    if values.size and not (values.min() >= 0 and values.max() <= 1.001):
        raise DataError(f"confidences must lie in 0..1, not {values.min()}..{values.max()}")
    values = np.minimum(values, 1.0)
    place = np.minimum((values * bins).astype(np.int64), bins - 1)
    right = prediction[valid] == label[valid]
    units = np.rint(values * CONFIDENCE_UNIT)
    # bincount adds weights in float64, which is exact for whole numbers of this size.
    columns = [np.bincount(place, weights, bins) for weights in (np.ones_like(units), right, units)]
    return np.stack(columns, axis=1).astype(np.int64)


def calibration_error(counts: np.ndarray) -> np.ndarray:
    """Expected calibration error (Guo et al. 2017), (...) from counts (..., bins, 3).

    The mean over pixels of `|accuracy - mean confidence|` of the pixel's bin; NaN without pixels.
    """
    counts = np.asarray(counts, dtype=np.float64)
    gap = np.abs(counts[..., 1] - counts[..., 2] / CONFIDENCE_UNIT)
    return _ratio(gap.sum(axis=-1), counts[..., 0].sum(axis=-1))


def _rows(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    counts = np.asarray(counts)
    if counts.ndim < 2 or counts.shape[-2] != 3:
        raise DataError(f"counts have shape (..., 3, classes), not {counts.shape}")
    return counts[..., INTERSECTION, :], counts[..., PREDICTION, :], counts[..., LABEL, :]


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """numerator / denominator in float64, NaN where the denominator is 0."""
    numerator = np.asarray(numerator, dtype=np.float64)
    denominator = np.asarray(denominator, dtype=np.float64)
    result = np.full(denominator.shape, np.nan)
    np.divide(numerator, denominator, out=result, where=denominator != 0)
    return result[()]


def _mean_of_known(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis of what is not NaN; NaN if nothing is left."""
    valid = ~np.isnan(values)
    return _ratio(np.where(valid, values, 0).sum(axis=-1), valid.sum(axis=-1))


def _boundary(labels: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels whose right or lower neighbour differs, both of them valid."""
    edge = np.zeros(labels.shape, dtype=bool)
    edge[:, :-1] = (labels[:, :-1] != labels[:, 1:]) & valid[:, :-1] & valid[:, 1:]
    edge[:-1] |= (labels[:-1] != labels[1:]) & valid[:-1] & valid[1:]
    return edge


def _dilate(mask: np.ndarray, radius: int) -> np.ndarray:
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disk = (x * x + y * y <= radius * radius).astype(np.uint8)
    return cv2.dilate(mask.astype(np.uint8), disk).astype(bool)


def _fill_band(label: np.ndarray, labelled: np.ndarray, band: int) -> tuple[np.ndarray, np.ndarray]:
    """Label map with ignored pixels close to a labelled one filled from it, and where it is
    valid."""
    if labelled.all() or not labelled.any():
        return label, labelled
    distance, nearest = cv2.distanceTransformWithLabels(
        (~labelled).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    # OpenCV numbers the labelled pixels; their labels are looked up by that number.
    by_number = np.zeros(int(nearest.max()) + 1, dtype=label.dtype)
    by_number[nearest[labelled]] = label[labelled]
    near = distance <= band
    return np.where(near, by_number[nearest], label), near
