"""Claims and measured numbers side by side, never in one column."""

import numpy as np
import pytest

from ovsslib.errors import DataError
from ovsslib.evaluation.profiles import Profile
from ovsslib.evaluation.report import Report
from ovsslib.evaluation.results import Results
from ovsslib.recipe import Recipe
from ovsslib.study.claims import claim
from ovsslib.study.claims_table import beside, claimed_text, gains


def results():
    random = np.random.default_rng(1)

    def report(name, right):
        label = random.integers(50, 100, (60, 2))
        hit = (right * label).astype(np.int64)
        predicted = hit + (label - hit)[:, ::-1]
        counts = np.stack([hit, predicted, label], axis=1)
        zeros = np.zeros((60, 4), dtype=np.int64), np.zeros((60, 15, 3), dtype=np.int64)
        return Report(
            Recipe(name), "scenes", "sceneclip/embedded", ("a", "b"), counts, *zeros, np.arange(60)
        )

    made = {"low": report("low", 0.4), "high": report("high", 0.8)}
    return Results(made, Profile.named("embedded-quick"))


def test_texts_carry_unit_sign_and_kind():
    assert claimed_text(claim("itaclip-t2-qk-miou")) == "19.0 %"
    assert claimed_text(claim("thesis-t4.1-loftup-gain-miou")) == "+2.64 points (projected)"
    expected = claimed_text(claim("thesis-p3.5.3-expected-phase2c-gain-miou"))
    assert expected.startswith("+5") and expected.endswith("points (expected)")


def test_claims_keep_columns_of_their_own():
    column = {"low": "itaclip-t2-qk-miou", "high": None}
    table = beside(results(), {"VOC21": column}, baseline="low")
    assert list(table.index) == ["low", "high"]
    assert table.columns[0] == "claimed: VOC21" and table.columns[1] == "measured: scenes, mIoU"
    assert table["claimed: VOC21"].tolist() == ["19.0 %", ""]
    assert table["verdict"].tolist()[0] == "" and "better" in table["verdict"].tolist()[1]


def test_unknown_rows_and_claims_are_refused():
    with pytest.raises(DataError, match="no result is called"):
        beside(results(), {"VOC21": {"middle": "itaclip-t2-qk-miou"}})
    with pytest.raises(DataError, match="no claim"):
        beside(results(), {"VOC21": {"low": "itaclip-t2-qkk-miou"}})


def test_a_part_of_the_results_keeps_order_and_takes_new_names():
    found = results()
    part = found.part({"second": "high", "first": "low"})
    assert list(part) == ["second", "first"] and part["second"] is found["high"]
    assert list(found.part(["high"])) == ["high"] and part.profile is found.profile
    with pytest.raises(DataError, match="no result is called"):
        found.part(["middle"])


def test_claimed_gains_stand_beside_the_same_two_recipes_measured():
    low, high = results().reports.values()
    made = Results({"thesis-baseline": low, "thesis-phase1": high}, Profile.named("embedded-quick"))
    table = gains(
        made,
        {
            "phase 1": "thesis-p5.1.1-phase1-gain-miou",
            "phase 2A": "thesis-p5.1.2-phase2a-gain-miou",
        },
    )
    assert list(table.index) == ["phase 1"]  # phase 2A was not measured
    row = table.loc["phase 1"]
    assert row["claimed: COCO-Stuff, ViT-B/16"] == "+16.41 points (projected)"
    step = high.difference(low, "miou")
    assert row["measured: scenes, 60 images"].startswith(f"{step.value:+.2f} points [")
    assert row["verdict"] == "better" and list(table.columns)[-1] == "verdict"


def test_a_claimed_gain_of_a_class_that_the_data_set_lacks_stays_alone():
    low, high = results().reports.values()
    made = Results({"thesis-baseline": low, "thesis-full": high}, Profile.named("embedded-quick"))
    row = gains(made, {"person": "thesis-p5.2-full-gain-person-iou"}).loc["person"]
    assert row.tolist() == ["+26.47 points (projected)", "", ""]
    for bad in (
        "thesis-p5.2-full-miou",
        "thesis-p5.1.1-loftup-gain-miou",
        "thesis-p5.2-full-voc21-gain",
    ):
        with pytest.raises(DataError):
            gains(made, {"x": bad})
