"""The factorial on toys whose effects are known, and end to end on a tiny model."""

import itertools
import math
from dataclasses import dataclass

import numpy as np
import pytest
from fake_datasets import build

from ovsslib.datasets.dataset import open_dataset
from ovsslib.errors import DataError, RecipeError
from ovsslib.evaluation import intervals
from ovsslib.evaluation.profiles import Profile
from ovsslib.recipe import Recipe
from ovsslib.study import factorial as study

IMAGES, PIXELS = 30, 10_000


def counts_of_accuracy(right):
    """Per-image counts (N, 3, 2) with `right` (N,) right pixels of PIXELS, all of class 0."""
    right = np.asarray(right, dtype=np.int64)
    counts = np.zeros((len(right), 3, 2), dtype=np.int64)
    counts[:, 0, 0] = counts[:, 1, 0] = right
    counts[:, 1, 1] = PIXELS - right
    counts[:, 2, 0] = PIXELS
    return counts


def toy(gain, switches, spread=0):
    """Counts of all configurations: right pixels = 3000 + gain(bits) + what varies from image to
    image."""
    base = np.random.default_rng(1).integers(-spread, spread + 1, IMAGES)
    own = np.random.default_rng(2)
    return [
        counts_of_accuracy(
            3000
            + gain(*[n >> i & 1 for i in range(switches)])
            + base
            + own.integers(-spread // 10, spread // 10 + 1, IMAGES)
        )
        for n in range(1 << switches)
    ]


def made(gain, names, spread=0, **options):
    counts = toy(gain, len(names), spread)
    return study.from_counts(names, counts, "pixel_accuracy", **options)


def test_additive_switches_have_their_gains_and_no_synergy():
    result = made(lambda a, b, c: 1000 * a + 500 * b - 200 * c, "ABC")
    effects = result.main_effects().set_index("switch")
    for column in ("effect", "alone", "last"):
        assert effects[column].tolist() == pytest.approx([10, 5, -2])
    assert effects["effect_verdict"].tolist() == ["better", "better", "worse"]
    assert result.interactions()["interaction"].tolist() == pytest.approx([0, 0, 0])
    assert result.shapley()["points"].tolist() == pytest.approx([10, 5, -2])
    last = result.additivity().iloc[-1]
    assert last["quantity"] == "synergy" and last["value"] == pytest.approx(0)


def test_an_interaction_is_found_and_divided_evenly():
    result = made(lambda a, b: 1000 * a + 500 * b + 800 * a * b, "AB")
    effects = result.main_effects().set_index("switch")
    assert effects.loc["A", ["alone", "effect", "last"]].tolist() == pytest.approx([10, 14, 18])
    row = result.interactions().iloc[0]
    assert row["interaction"] == pytest.approx(8) and row["verdict"] == study.HELP
    shares = result.shapley().set_index("switch")
    assert shares["points"].tolist() == pytest.approx([14, 9])
    assert shares["share"].tolist() == pytest.approx([1400 / 23, 900 / 23])
    table = result.additivity().set_index("quantity")
    assert table.loc["sum of the single gains", "value"] == pytest.approx(15)
    assert table.loc["gain of all together", "value"] == pytest.approx(23)
    assert table.loc["synergy", ["value", "low", "high"]].tolist() == pytest.approx([8, 8, 8])
    assert table.loc["synergy", "verdict"] == study.SYNERGY


def test_switches_that_hinder_each_other_are_called_so():
    result = made(lambda a, b: 1000 * a + 500 * b - 700 * a * b, "AB", spread=200)
    assert result.interactions().iloc[0]["verdict"] == study.HINDER
    assert result.additivity().iloc[-1]["verdict"] == study.INTERFERENCE


def calibrated(confidence):
    """Per-image calibration counts (N, 15, 3): half of the pixels are right, all with one confidence."""
    counts = np.zeros((IMAGES, 15, 3), dtype=np.int64)
    counts[:, int(confidence * 15)] = (PIXELS, PIXELS // 2, confidence * PIXELS * 1_000_000)
    return counts


def test_a_lower_calibration_error_is_better():
    # confidences 0.9, 0.8 with A, 0.7 with B, 0.6 with both: errors of 40, 30, 20 and 10 percent
    counts = [calibrated(confidence) for confidence in (0.9, 0.8, 0.7, 0.6)]
    result = study.from_counts("AB", counts, "calibration_error")
    assert result.values.tolist() == pytest.approx([40, 30, 20, 10])
    table = result.table()
    assert table["configuration"].tolist() == ["A + B", "B", "A", "base"]
    assert table["verdict"].tolist() == ["better"] * 3 + ["no difference shown"]
    effects = result.main_effects()
    assert effects["effect"].tolist() == pytest.approx([-10, -20])
    assert effects["effect_verdict"].tolist() == ["better", "better"]
    helped = study.from_counts("AB", [counts[i] for i in (0, 1, 1, 3)], "calibration_error")
    assert helped.interactions().iloc[0]["verdict"] == study.HELP
    with pytest.raises(DataError, match="counts of another metric"):
        study.from_counts("A", [counts_of_accuracy([1, 2])] * 2, "calibration_error")
    with pytest.raises(DataError, match="counts of another metric"):
        study.from_counts("AB", counts, "miou")


def test_noise_alone_is_no_synergy():
    result = made(lambda a, b: 1000 * a + 500 * b, "AB", spread=600)
    last = result.additivity().iloc[-1]
    assert last["low"] < 0 < last["high"] and last["verdict"] == study.NOT_SHOWN
    assert last["low"] < last["value"] < last["high"]


def test_shapley_is_the_mean_over_all_orders():
    random = np.random.default_rng(3).integers(0, 1500, 16)
    result = made(lambda *bits: int(random[sum(b << i for i, b in enumerate(bits))]), "ABCD")
    expected = np.zeros(4)
    for order in itertools.permutations(range(4)):
        for place, switch in enumerate(order):
            before = sum(1 << other for other in order[:place])
            expected[switch] += result.values[before | 1 << switch] - result.values[before]
    points = result.shapley()["points"].to_numpy()
    assert points == pytest.approx(expected / math.factorial(4))
    assert points.sum() == pytest.approx(result.values[-1] - result.values[0])


def test_shares_of_no_gain_are_not_given():
    result = made(lambda a, b: 300 * a - 300 * b, "AB", spread=100)
    frame = result.shapley()
    assert frame["share"].isna().all() and frame["points"].tolist() == pytest.approx(
        [3, -3], abs=0.5
    )


def test_gains_and_intervals_are_those_of_a_paired_comparison():
    counts = toy(lambda a, b: 400 * a + 100 * b, 2, spread=800)
    result = study.from_counts("AB", counts, "pixel_accuracy")
    table = result.table().set_index("configuration")
    pair = intervals.paired_difference(counts[3], counts[0], metric="pixel_accuracy").percent()
    row = table.loc["A + B"]
    assert (row["gain"], row["gain_low"], row["gain_high"]) == pytest.approx(
        (pair.value, pair.low, pair.high)
    )
    assert row["A"] and row["B"] and not table.loc["base", "A"]
    own = intervals.interval(counts[3], metric="pixel_accuracy").percent()
    assert (row["low"], row["high"]) == pytest.approx((own.low, own.high), nan_ok=True)


def test_groups_count_as_one_switch():
    result = made(lambda a, b, c: 100 * a + 100 * b + 100 * c + 400 * a * b, "ABC")
    apart = result.additivity().iloc[-1]["value"]
    table = result.additivity({"first": "AB", "second": "C"}).set_index("quantity")
    assert apart == pytest.approx(4)
    assert table.loc["gain of first", "value"] == pytest.approx(6)
    assert table.loc["synergy", "value"] == pytest.approx(0)
    with pytest.raises(DataError, match="share a switch"):
        result.additivity({"first": "AB", "second": "B"})
    with pytest.raises(DataError, match="no switch 'D'"):
        result.number("D")


def test_the_thesis_claims_less_than_the_sum():
    table = study.claimed_additivity().set_index("quantity")["value"]
    assert table["sum of the single gains"] == pytest.approx(16.41 + 9.71)
    assert table["synergy"] == pytest.approx(22.15 - 16.41 - 9.71)
    assert study.claimed_additivity("person_iou").iloc[-1]["value"] < 0


def test_a_class_that_is_missing_from_a_draw_says_nothing_there():
    random = np.random.default_rng(4)
    counts = [random.integers(1, 100, (12, 3, 2)) for _ in range(2)]
    for one in counts:
        one[:, 1:] += one[:, :1]
        one[1:, :, 1] = 0  # class 1 occurs in the first image alone
    result = study.from_counts("A", counts, "per_class_iou", class_index=1)
    assert result.scores.without.shape == (2, len(counts[0])) and result.scores.used > 0


@pytest.mark.parametrize(
    ("names", "number", "match"),
    [
        ("AB", 3, "4 configurations, not 3"),
        ("AA", 4, "different names"),
        ("", 1, "different names"),
    ],
)
def test_counts_that_do_not_fit_are_refused(names, number, match):
    with pytest.raises(DataError, match=match):
        study.from_counts(names, [counts_of_accuracy([5])] * number, "pixel_accuracy")


def test_the_thesis_switches_make_128_different_recipes():
    made = study.configurations(Recipe.named("thesis-baseline", "scenes"))
    assert len(made) == 128 and len({recipe.key() for recipe in made.values()}) == 128
    assert made["base"] == Recipe.named("thesis-baseline", "scenes")
    everything = list(made.values())[-1]
    assert everything == Recipe.named("thesis-full", "scenes")
    assert set(itertools.chain(*study.PHASES.values())) == set(study.SWITCHES)


def test_a_switch_without_effect_on_the_recipe_is_refused():
    with pytest.raises(RecipeError, match="changes nothing"):
        study.configurations(Recipe.named("naclip"), {"PAMR": {"pamr": True}})


@dataclass(frozen=True)
class TinyProfile(Profile):
    """A profile of a given model and data set."""

    parts: tuple = ()

    def backbone(self):
        return self.parts[0]

    def open_whole(self):
        return self.parts[1]


def test_factorial_measures_every_combination(tiny_backbone, tmp_path, monkeypatch):
    monkeypatch.setenv("OVSSLIB_CACHE", str(tmp_path / "cache"))
    build("folder", tmp_path)
    dataset = open_dataset("folder", tmp_path / "folder")
    profile = TinyProfile("tiny", dataset="folder", parts=(tiny_backbone, dataset))
    base = Recipe.named("sclip").but(windows={"short_side": 64, "crop": 64, "stride": 32})
    switches = {"PAMR": {"pamr": True}, "closing": {"labels.closing": 3}}
    result = study.factorial(base, switches, profile, store=False, progress=False)
    assert list(result.results) == ["base", "PAMR", "closing", "PAMR + closing"]
    assert result.values[3] == pytest.approx(result.results["PAMR + closing"].miou)
    boundary = study.from_results(tuple(switches), result.results, "boundary_f1")
    assert boundary.values[0] == pytest.approx(result.results["base"].boundary_f1)
    error = study.from_results(tuple(switches), result.results, "calibration_error")
    assert error.values == pytest.approx(
        [r.calibration_error for r in result.results.reports.values()]
    )
    assert error.table()["value"].is_monotonic_increasing
    one = study.from_results(tuple(switches), result.results, "class_iou:dog")
    assert one.values[1] == pytest.approx(result.results["PAMR"].per_class["dog"])
    with pytest.raises(DataError, match="no class 'tree'"):
        study.from_results(tuple(switches), result.results, "class_iou:tree")
