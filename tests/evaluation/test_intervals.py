"""Bootstrap intervals: against a slow bootstrap, against theory, and their promises."""

import tracemalloc

import numpy as np
import pytest
from scipy import stats
from scipy.stats import t as student

from ovsslib.errors import DataError
from ovsslib.evaluation import intervals, metrics
from ovsslib.evaluation.intervals import (
    draw_weights,
    interval,
    paired_difference,
    several_intervals,
    verdict,
)


def counts_of(images: int = 40, classes: int = 6, quality: float = 0.7, seed: int = 0):
    """Per-image counts (N, 3, C) of a made-up method; classes are rare, the last never occurs."""
    random = np.random.default_rng(seed)
    label = random.integers(50, 400, (images, classes)) * (random.random((images, classes)) < 0.5)
    label[:, -1] = 0
    wrong = random.binomial(label, 1 - quality)
    prediction = label - wrong
    moved = np.roll(wrong[:, :-1], 1, axis=1)
    prediction[:, :-1] += moved
    return np.stack([label - wrong, prediction, label], axis=1)


def slow_jackknife(counts, metric, share=1.0):
    """Value less bias and the ends, image by image, on logits."""
    images = len(counts)
    everything = metric(counts.sum(axis=0))
    values = [metric(np.delete(counts, i, axis=0).sum(axis=0)) for i in range(images)]
    logit = np.log(everything / (1 - everything))
    without = np.log(np.array(values) / (1 - np.array(values)))
    bias = (images - 1) * (without.mean() - logit)
    error = (images - 1) / images * ((without - without.mean()) ** 2).sum()
    half = stats.t.ppf(0.975, images - 1) * np.sqrt(share**2 * error + bias**2 / 5)
    return [1 / (1 + np.exp(-x)) for x in (logit - bias, logit - bias - half, logit - bias + half)]


@pytest.mark.parametrize("metric", ["miou", "pixel_accuracy", "mean_accuracy"])
def test_interval_equals_a_slow_jackknife(metric):
    counts = counts_of(images=80)
    function = intervals.METRICS[metric]
    found = interval(counts, metric=metric)
    expected = slow_jackknife(counts, function)
    np.testing.assert_allclose([found.corrected, found.low, found.high], expected, rtol=1e-9)
    assert found.value == function(counts.sum(axis=0)), "the printed value is not corrected"
    whole = interval(counts, metric=metric, population=160)
    expected = slow_jackknife(counts, function, share=np.sqrt(0.5))
    np.testing.assert_allclose([whole.corrected, whole.low, whole.high], expected, rtol=1e-9)


def test_a_class_is_judged_by_the_images_that_show_it():
    counts = counts_of(images=160)
    counts[:50, :, 2] = 0
    found = interval(counts, metric="per_class_iou")
    shown = (counts[:, :, 2] > 0).any(axis=1)
    alone = slow_jackknife(counts[shown][:, :, 2:3], lambda c: metrics.per_class_iou(c)[0])
    assert shown.sum() >= intervals.minimum_images("per_class_iou")
    got = [found.corrected[2], found.low[2], found.high[2]]
    np.testing.assert_allclose(got, alone, rtol=1e-9)


@pytest.mark.parametrize("images", [1, 3, intervals.minimum_images("miou") - 1])
def test_too_few_images_have_a_value_and_no_interval(images):
    counts = counts_of(images=images)
    for metric in ("miou", "per_class_iou", "mean_accuracy"):
        found = interval(counts, metric=metric)
        assert np.isnan(found.low).all() or metric == "per_class_iou"
        np.testing.assert_array_equal(found.value, intervals.METRICS[metric](counts.sum(axis=0)))
    assert str(interval(counts)).endswith(f"({intervals.TOO_FEW})")
    assert np.isfinite(interval(counts_of(images=intervals.minimum_images("miou"))).low)
    if images < intervals.MINIMUM_PAIRED:
        gain = paired_difference(counts, counts_of(images=images, seed=3))
        assert np.isnan([gain.low, gain.high]).all() and verdict(gain) == "no difference shown"


def test_numbers_are_written_with_or_without_interval():
    assert intervals.written(64.487, 62.1, 66.8, unit=" %") == "64.49 % [62.10, 66.80]"
    assert intervals.written(1.5, np.nan, np.nan, "+.1f", " points") == (
        "+1.5 points (too few images for an interval)"
    )
    assert intervals.written(-0.54, -1.11, -0.0022, "+.2f") == "-0.54 [-1.11, -0.002]"
    assert intervals.written(0.1, 0.00004, 1, ".2f") == "0.10 [0.00, 1.00]"
    assert intervals.written(-0.1, -0.3, 0.0, "+.1f") == "-0.1 [-0.3, +0.0]"
    assert intervals.written(np.nan, np.nan, np.nan) == "" == intervals.written(None, None, None)


def test_draws_are_multinomial():
    weights = draw_weights(20, 4000, seed=1, block=0)
    assert weights.dtype == np.float64 and (weights.sum(axis=1) == 20).all()
    np.testing.assert_allclose(weights.mean(axis=0), 1, atol=0.08)
    np.testing.assert_allclose(weights.var(axis=0), 1 - 1 / 20, atol=0.12)


def test_width_follows_theory():
    # With images of one size, pixel accuracy is a mean over images: half width 1.96 s / sqrt(N).
    random = np.random.default_rng(3)
    right = random.integers(200, 900, 400)
    counts = np.stack([right, np.full(400, 1000), np.full(400, 1000)], axis=1)[..., None]
    found = interval(counts, metric="pixel_accuracy")
    expected = 1.966 * (right / 1000).std() / 20
    assert found.half_width == pytest.approx(expected, rel=0.06)
    assert found.low < found.value < found.high
    assert interval(counts, level=0.5, metric="pixel_accuracy").half_width < found.half_width / 2


def test_interval_holds_the_truth_as_often_as_it_says():
    random = np.random.default_rng(4)
    held = 0
    for _ in range(120):
        right = random.binomial(100, random.beta(4, 2, 60))
        counts = np.stack([right, np.full(60, 100), np.full(60, 100)], axis=1)[..., None]
        found = interval(counts, metric="pixel_accuracy")
        held += found.low <= 4 / 6 <= found.high
    assert 0.87 <= held / 120 <= 1.0


def test_a_difference_is_the_jackknife_of_the_formula():
    first, second = counts_of(images=40), counts_of(images=40, quality=0.6, seed=2)

    def gap(keep):
        return metrics.miou(first[keep].sum(0)) - metrics.miou(second[keep].sum(0))

    everyone = np.arange(40)
    whole, parts = gap(everyone), np.array([gap(everyone != i) for i in everyone])
    bias = 39 * (parts.mean() - whole)
    error = np.sqrt(39 / 40 * ((parts - parts.mean()) ** 2).sum())
    half = student.ppf(0.975, 39) * np.sqrt(error**2 + bias**2 / 5)
    found = paired_difference(first, second)
    assert found.value == pytest.approx(whole, rel=1e-12)
    assert (found.low, found.high) == pytest.approx((whole - bias - half, whole - bias + half))
    wider = paired_difference(first, second, 0.99)
    assert wider.low < found.low < found.high < wider.high
    assert np.isnan(paired_difference(first[:29], second[:29]).low)


def test_a_sum_of_scores_with_weights_and_a_ratio():
    counts = [counts_of(images=40, quality=q, seed=2) for q in (0.5, 0.6, 0.9)]
    scores = intervals.left_out(counts)
    found = intervals.contrast(scores, [0, -1, 1])
    assert found == paired_difference(counts[2], counts[1])
    effect = intervals.contrast(scores, [-1, -1, 2])
    assert effect.value == pytest.approx(scores.values @ [-1, -1, 2]) and effect.low < effect.value
    part = intervals.ratio(scores, np.array([-1, 1, 0]), np.array([-1, 0, 1]))
    assert part.value == pytest.approx(
        (scores.values[1] - scores.values[0]) / (scores.values[2] - scores.values[0])
    )
    assert part.low < part.value < part.high
    one = intervals.left_out(counts, "per_class_iou")
    every = intervals.contrast(one, [0, -1, 1])
    assert intervals.contrast(one.of_class(0), [0, -1, 1]).low == every.low[0]


def test_a_class_that_few_images_show_has_no_paired_interval():
    first, second = counts_of(images=40), counts_of(images=40, quality=0.6, seed=2)
    for counts in (first, second):
        counts[29:, :, 0] = 0
    found = paired_difference(first, second, metric="per_class_iou")
    assert np.isnan(found.low[0]) and not np.isnan(found.value[0])
    assert not np.isnan(found.low[1])


def test_several_metrics_in_one_pass_equal_one_at_a_time():
    counts = counts_of(images=70)
    both = several_intervals(counts, ("miou", "per_class_iou"))
    assert both["miou"] == interval(counts)
    alone = interval(counts, metric="per_class_iou")
    np.testing.assert_array_equal(both["per_class_iou"].low, alone.low)


def test_classes_that_never_occur_stay_unknown():
    found = interval(counts_of(images=100), metric="per_class_iou")
    assert found.low.shape == (6,) and np.isnan(found.low[-1]) and np.isnan(found.value[-1])
    assert (found.low[:-1] <= found.value[:-1]).all() and (
        found.value[:-1] <= found.high[:-1]
    ).all()


def test_a_class_in_one_image_only_has_no_interval():
    counts = counts_of()
    counts[0, :, 5] = (30, 50, 60)
    found = interval(counts, metric="per_class_iou")
    assert found.value[5] == pytest.approx(30 / 80)
    assert np.isnan([found.low[5], found.high[5]]).all()


def test_all_ignored_is_unknown_without_warnings(recwarn):
    found = interval(np.zeros((60, 3, 4), dtype=np.int64))
    assert np.isnan([found.value, found.low, found.high]).all()
    assert not recwarn.list


def test_boundary_f1_and_calibration():
    random = np.random.default_rng(0)
    boundary = random.integers(50, 100, (50, 4))
    boundary[:, [1, 3]] += 100
    found = interval(boundary, metric="boundary_f1")
    assert found.value == metrics.boundary_f1(boundary.sum(axis=0))
    assert found.low < found.value < found.high
    bins = random.integers(1, 100, (50, 15, 3))
    bins[..., 2] *= 1_000_000
    error = interval(bins, metric="calibration_error")
    assert error.low < error.value < error.high


def test_paired_differences():
    worse, better = (counts_of(images=100, quality=0.7, seed=1) for _ in range(2))
    better[:, 0] += (better[:, 2] - better[:, 0]) // 10
    found = paired_difference(better, worse)
    alone = interval(better)
    assert found.low > 0 and verdict(found) == "better"
    assert verdict(paired_difference(worse, better)) == "worse"
    assert found.half_width < alone.half_width / 2, "pairing takes out the draw of images"
    value = metrics.miou(better.sum(axis=0)) - metrics.miou(worse.sum(axis=0))
    assert found.value == pytest.approx(value)


def test_no_difference():
    counts = counts_of()
    same = paired_difference(counts, counts)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    assert verdict(same) == "no difference shown"
    # Two methods of one quality, whose errors fall on different images.
    first, second = counts_of(images=300, seed=1), counts_of(images=300, seed=1)
    second[:, :2] = np.roll(second[:, :2], 1, axis=0) * (second[:, 2:] > 0)
    second[:, 0] = np.minimum(second[:, 0], second[:, 2])
    second[:, 1] = np.maximum(second[:, 1], second[:, 0])
    swapped = (
        np.concatenate([first[:150], second[150:]]),
        np.concatenate([second[:150], first[150:]]),
    )
    assert verdict(paired_difference(*swapped)) == "no difference shown"


def test_verdicts_per_class():
    counts = counts_of(images=100)
    better = counts.copy()
    better[:, 0, 0] = better[:, 2, 0]
    found = verdict(paired_difference(better, counts, metric="per_class_iou"))
    assert found == ["better"] + ["no difference shown"] * 5


def test_percent_and_text():
    found = intervals.Interval(0.5, 0.4, 0.6, 0.95, 10)
    assert found.percent().high == 60 and found.percent().level == 0.95
    assert str(found) == "0.5000 [0.4000, 0.6000]"
    assert "6 intervals" in str(interval(counts_of(), metric="per_class_iou"))


def test_memory_stays_bounded():
    counts = counts_of(images=1500, classes=4)
    tracemalloc.start()
    paired_difference(counts, counts)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 15e6 < 2000 * 1500 * 8


@pytest.mark.parametrize(
    "change,reason",
    [
        ({"metric": "iou"}, "unknown metric 'iou'"),
        ({"level": 95}, "level"),
        ({"population": 10}, "10; give more"),
        ({"metric": "boundary_f1"}, "boundary_f1 needs counts"),
    ],
)
def test_bad_requests(change, reason):
    with pytest.raises(DataError, match=reason):
        interval(counts_of(), **change)


def test_bad_counts():
    with pytest.raises(DataError, match="no images"):
        interval(np.zeros((0, 3, 4), dtype=np.int64))
    with pytest.raises(DataError, match="whole numbers"):
        interval(np.zeros((2, 3, 4)))
    with pytest.raises(DataError, match="same images"):
        paired_difference(counts_of(images=3), counts_of(images=4))
