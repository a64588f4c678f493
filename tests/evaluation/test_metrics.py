"""Metrics against torchmetrics, the mmsegmentation formula, and cases worked out by hand."""

import numpy as np
import pytest

import ovsslib._torchvision  # noqa: F401 - torchmetrics imports torchvision

# isort: split
import torch
from scipy.ndimage import distance_transform_edt
from torchmetrics.classification import MulticlassCalibrationError, MulticlassConfusionMatrix

from ovsslib.errors import DataError
from ovsslib.evaluation import metrics
from ovsslib.evaluation.metrics import (
    BoundaryRule,
    ConfusionMatrix,
    boundary_counts,
    boundary_f1,
    calibration_counts,
    calibration_error,
    image_counts,
)


def random_maps(case: str, seed: int = 0, classes: int = 7, images: int = 4):
    """Pairs of prediction and label with the named trait."""
    random = np.random.default_rng(seed)
    pairs = []
    for _ in range(images):
        label = random.integers(0, classes, (13, 17))
        prediction = np.where(
            random.random((13, 17)) < 0.6, label, random.integers(0, classes, (13, 17))
        )
        label[random.random((13, 17)) < 0.1] = 255
        if case == "absent":
            label[label == 3], prediction[prediction == 3] = 4, 4
        elif case == "predicted only":
            label[label == 2] = 255
        elif case == "labelled only":
            prediction[prediction == 5] = 0
        elif case == "all ignored":
            label[:] = 255
        elif case == "perfect":
            prediction = np.where(label == 255, 6, label)
        pairs.append((prediction, label))
    return pairs


CASES = ("plain", "absent", "predicted only", "labelled only", "all ignored", "perfect")


def mmsegmentation(pairs, classes):
    """IoUMetric of mmsegmentation by its formula: histograms over the data set, NaN-mean over
    classes."""
    areas = np.zeros((3, classes))
    for prediction, label in pairs:
        mask = label != 255
        prediction, label = prediction[mask], label[mask]
        for row, values in enumerate((prediction[prediction == label], prediction, label)):
            areas[row] += np.histogram(values, bins=classes, range=(0, classes - 1))[0]
    with np.errstate(invalid="ignore"):
        iou = areas[0] / (areas[1] + areas[2] - areas[0])
        accuracy = areas[0] / areas[2]
    return iou, accuracy, areas[0].sum() / areas[2].sum() if areas[2].sum() else np.nan


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", range(3))
def test_confusion_matrix_equals_torchmetrics(case, seed):
    ours = ConfusionMatrix(7)
    theirs = MulticlassConfusionMatrix(7, ignore_index=255)
    for prediction, label in random_maps(case, seed):
        ours.update(prediction, label)
        theirs.update(torch.from_numpy(prediction), torch.from_numpy(label))
    assert ours.matrix.dtype == np.int64
    assert np.array_equal(ours.matrix, theirs.compute().numpy())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.filterwarnings("error")
def test_metrics_equal_the_mmsegmentation_formula(case, seed):
    pairs = random_maps(case, seed)
    matrix = ConfusionMatrix(7)
    per_image = np.stack([matrix.update(prediction, label) for prediction, label in pairs])
    iou, accuracy, overall = mmsegmentation(pairs, 7)
    counts = matrix.counts
    assert counts.dtype == np.int64 and np.array_equal(per_image.sum(axis=0), counts)
    np.testing.assert_allclose(metrics.per_class_iou(counts), iou, rtol=1e-12)
    np.testing.assert_allclose(metrics.per_class_accuracy(counts), accuracy, rtol=1e-12)
    np.testing.assert_allclose(metrics.pixel_accuracy(counts), overall, rtol=1e-12)
    nothing = np.isnan(iou).all()
    for ours, values in ((metrics.miou, iou), (metrics.mean_accuracy, accuracy)):
        expected = np.nan if nothing else np.nanmean(values)
        np.testing.assert_allclose(ours(counts), expected, rtol=1e-12)
    share = np.nan if nothing else counts[2] / counts[2].sum()
    expected = np.nan if nothing else np.nansum(share * iou)
    np.testing.assert_allclose(metrics.frequency_weighted_iou(counts), expected, rtol=1e-12)


def test_cases_have_their_traits():
    iou = {case: mmsegmentation(random_maps(case), 7)[0] for case in CASES}
    assert np.isnan(iou["absent"][3]) and np.isnan(iou["all ignored"]).all()
    assert iou["predicted only"][2] == 0 and iou["labelled only"][5] == 0
    assert (iou["perfect"] == 1).all()


def test_nothing_at_all_is_nan():
    empty = ConfusionMatrix(3).counts
    for metric in (metrics.miou, metrics.pixel_accuracy, metrics.mean_accuracy):
        assert np.isnan(metric(empty))
    assert np.isnan(metrics.per_image_mean_iou(np.zeros((0, 3, 4), dtype=np.int64)))
    assert np.isnan(boundary_f1(np.zeros(4))) and np.isnan(calibration_error(np.zeros((15, 3))))
    assert image_counts(np.zeros((0, 5), int), np.zeros((0, 5), int), 2).sum() == 0


def test_ignored_pixels_may_hold_any_prediction():
    counts = image_counts(np.array([[0, 99]]), np.array([[0, 255]]), 2)
    assert counts.tolist() == [[1, 0], [1, 0], [1, 0]]
    other = image_counts(np.array([[0, 1]]), np.array([[0, 65535]]), 2, ignore=65535)
    assert np.array_equal(counts, other)


@pytest.mark.parametrize(
    "prediction,label,reason",
    [
        (np.zeros((2, 2), int), np.zeros((2, 3), int), "differ in size"),
        (np.full((2, 2), 3), np.zeros((2, 2), int), "prediction holds classes 3..3"),
        (np.full((2, 2), -1), np.zeros((2, 2), int), "prediction holds classes -1"),
        (np.zeros((2, 2), int), np.full((2, 2), 9), "label holds classes 9"),
        (np.zeros((2, 2)), np.zeros((2, 2), int), "whole numbers"),
    ],
)
def test_wrong_maps_are_refused(prediction, label, reason):
    with pytest.raises(DataError, match=reason):
        ConfusionMatrix(3).update(prediction, label)


def test_matrices_of_processes_add_up():
    pairs = random_maps("plain")
    whole, first, second = ConfusionMatrix(7), ConfusionMatrix(7), ConfusionMatrix(7)
    for index, pair in enumerate(pairs):
        whole.update(*pair)
        (first if index % 2 else second).update(*pair)
    first.merge(second)
    assert np.array_equal(first.matrix, whole.matrix)
    with pytest.raises(DataError, match="8 classes"):
        first.merge(ConfusionMatrix(8))
    with pytest.raises(DataError, match="at least 1"):
        ConfusionMatrix(0)


def test_small_types_do_not_overflow():
    prediction = np.full((300, 300), 170, dtype=np.uint8)
    counts = image_counts(prediction, prediction, 171)
    assert counts[:, 170].tolist() == [90000] * 3 and counts.sum() == 270000


def test_per_image_mean_differs_from_the_data_set_metric():
    # Image 1: class 0 right everywhere. Image 2: half 0, half 1, all predicted 0.
    label = np.array([[0, 0, 0, 0]]), np.array([[0, 0, 1, 1]])
    counts = np.stack([image_counts(np.zeros((1, 4), int), one, 3) for one in label])
    assert metrics.image_miou(counts).tolist() == [1.0, 0.25]
    assert metrics.per_image_mean_iou(counts) == 0.625
    assert metrics.miou(counts.sum(axis=0)) == pytest.approx((6 / 8 + 0) / 2)
    # A class that is only predicted costs the per-image mean nothing directly.
    only = image_counts(np.array([[0, 0, 0, 2]]), np.array([[0, 0, 0, 255]]), 3)
    assert metrics.image_miou(only[None]).tolist() == [1.0]


def test_per_image_mean_skips_images_without_labels():
    counts = np.stack([image_counts(p, t, 7) for p, t in random_maps("plain")])
    more = np.concatenate([counts, np.zeros((1, 3, 7), dtype=np.int64)])
    assert metrics.per_image_mean_iou(more) == metrics.per_image_mean_iou(counts)


def test_leading_axes_are_kept():
    counts = np.stack([image_counts(p, t, 7) for p, t in random_maps("plain", images=6)])
    stacked = counts.reshape(2, 3, 3, 7)
    assert metrics.per_class_iou(stacked).shape == (2, 3, 7)
    for metric in (metrics.miou, metrics.pixel_accuracy, metrics.frequency_weighted_iou):
        assert metric(stacked).shape == (2, 3)
        assert metric(stacked)[1, 2] == metric(counts[5])


def test_counts_of_another_shape_are_refused():
    with pytest.raises(DataError, match="classes"):
        metrics.miou(np.zeros((2, 7)))


def blob(shift: int = 0) -> np.ndarray:
    """A square of class 1 on class 0, moved to the right."""
    label = np.zeros((40, 40), np.uint8)
    label[10:30, 10 + shift : 30 + shift] = 1
    return label


def slow_boundary_counts(prediction, label, tolerance):
    """The definition written out with exact Euclidean distances, without ignored pixels."""

    def edge(labels):
        result = np.zeros(labels.shape, bool)
        for y, x in np.ndindex(labels.shape):
            right = x + 1 < labels.shape[1] and labels[y, x] != labels[y, x + 1]
            below = y + 1 < labels.shape[0] and labels[y, x] != labels[y + 1, x]
            result[y, x] = right or below
        return result

    predicted, true = edge(prediction), edge(label)
    far = np.full(label.shape, np.inf)
    to_true = distance_transform_edt(~true) if true.any() else far
    to_predicted = distance_transform_edt(~predicted) if predicted.any() else far
    hit, found = predicted & (to_true <= tolerance), true & (to_predicted <= tolerance)
    return [hit.sum(), predicted.sum(), found.sum(), true.sum()]


@pytest.mark.parametrize("tolerance", [0, 1, 2, 5])
@pytest.mark.parametrize("seed", range(4))
def test_boundary_counts_equal_the_written_out_definition(tolerance, seed):
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 4, (2, 5, 6))
    prediction, label = (np.kron(one, np.ones((5, 4), int)) for one in blocks)
    prediction = np.roll(prediction, random.integers(0, 4, 2), (0, 1))
    ours = boundary_counts(prediction, label, rule=BoundaryRule(tolerance=tolerance))
    assert ours.dtype == np.int64
    assert ours.tolist() == slow_boundary_counts(prediction, label, tolerance)


@pytest.mark.parametrize("shift,perfect", [(0, True), (1, True), (2, True), (3, False), (6, False)])
def test_boundary_within_two_pixels_is_right(shift, perfect):
    score = boundary_f1(boundary_counts(blob(shift), blob()))
    assert (score == 1) == perfect
    assert 0.4 < score <= 1


def test_boundary_f1_of_nothing_against_something():
    flat = np.zeros((40, 40), np.uint8)
    assert np.isnan(boundary_f1(boundary_counts(flat, flat)))
    assert boundary_f1(boundary_counts(flat, blob())) == 0
    assert boundary_f1(boundary_counts(blob(), flat)) == 0
    mixed = np.array([[3, 4, 1, 2], [0, 0, 0, 5], [0, 0, 0, 0]])
    assert boundary_f1(mixed)[0] == pytest.approx(2 * 0.75 * 0.5 / 1.25)
    assert boundary_f1(mixed)[1] == 0 and np.isnan(boundary_f1(mixed)[2])


def test_names_of_the_classes_play_no_part_in_boundaries():
    assert boundary_f1(boundary_counts(blob() + 3, blob())) == 1


def test_boundaries_under_an_ignored_band():
    label = blob()
    banded = label.copy()
    around = np.zeros((40, 40), bool)
    around[8:32, 8:32] = True
    around[12:28, 12:28] = False
    banded[around] = 255
    # The band is split down its middle, so that a right prediction is right and a flat one is not.
    assert boundary_f1(boundary_counts(blob(), banded)) == 1
    assert boundary_f1(boundary_counts(np.zeros_like(label), banded)) == 0
    # A wrong edge is held against the prediction in labelled pixels, not inside the band.
    outside, inside = blob(), blob()
    outside[3:5, 3:36] = 1
    inside[20, 9] = 1
    assert boundary_counts(outside, banded)[1] > boundary_counts(blob(), banded)[1]
    precision = boundary_counts(inside, banded)[:2]
    assert precision[0] == precision[1]


def test_boundaries_far_inside_ignored_regions_do_not_count():
    label = np.full((40, 40), 255, np.uint8)
    label[:4] = 0
    prediction = np.zeros((40, 40), np.uint8)
    prediction[20:] = 1
    assert boundary_counts(prediction, label).tolist() == [0, 0, 0, 0]
    assert boundary_counts(prediction, np.full((40, 40), 255)).tolist() == [0, 0, 0, 0]


def test_boundary_sizes_must_agree():
    with pytest.raises(DataError, match="equal"):
        boundary_counts(np.zeros((3, 4)), np.zeros((4, 3)))
    assert boundary_counts(np.zeros((0, 4)), np.zeros((0, 4))).sum() == 0


@pytest.mark.parametrize("seed", range(3))
def test_calibration_error_equals_torchmetrics(seed):
    random = np.random.default_rng(seed)
    probabilities = random.dirichlet(np.ones(5), (6, 400)).astype(np.float32)
    label = random.integers(0, 5, (6, 400))
    label[random.random((6, 400)) < 0.1] = 255
    total = np.zeros((15, 3), dtype=np.int64)
    for one, truth in zip(probabilities, label, strict=True):
        total += calibration_counts(one.max(axis=-1), one.argmax(axis=-1), truth)
    known = label != 255
    theirs = MulticlassCalibrationError(5, n_bins=15, norm="l1")
    theirs.update(torch.from_numpy(probabilities[known]), torch.from_numpy(label[known]))
    assert total[:, 0].sum() == known.sum()
    assert calibration_error(total) == pytest.approx(float(theirs.compute()), abs=2e-6)


def test_calibration_by_hand():
    confidence = np.array([[0.9, 0.9, 1.0, 0.0]])
    counts = calibration_counts(confidence, np.array([[1, 1, 1, 0]]), np.array([[1, 0, 1, 255]]))
    assert counts.dtype == np.int64
    assert counts[13].tolist() == [2, 1, 1_800_000] and counts[14].tolist() == [1, 1, 1_000_000]
    assert calibration_error(counts) == pytest.approx((0.8 + 0) / 3)


def test_calibration_refuses_what_is_no_probability():
    maps = np.zeros((1, 2), int)
    for values in ([[0.5, 1.5]], [[-0.1, 0.5]], [[np.nan, 0.5]]):
        with pytest.raises(DataError, match="0..1"):
            calibration_counts(np.array(values), maps, maps)
    with pytest.raises(DataError, match="differ"):
        calibration_counts(np.zeros((1, 3)), maps, maps)


@pytest.mark.parametrize("value", [1.5, -1, True, float("nan")])
def test_rules_of_boundaries_and_bins_are_whole_numbers(value):
    """A tolerance of 1.5 made a disk without a centre, and other counts."""
    for name in ("tolerance", "band"):
        with pytest.raises(DataError, match=f"{name}=.*whole number"):
            metrics.BoundaryRule(**{name: value})
    with pytest.raises(DataError, match="bins=.*at least 1"):
        metrics.calibration_counts(np.ones((2, 2)), *np.zeros((2, 2, 2), dtype=int), bins=value)
    with pytest.raises(DataError, match="at least 1 class"):
        metrics.ConfusionMatrix(value if value is not True else 0)
