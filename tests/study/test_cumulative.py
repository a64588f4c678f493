"""Ablation rows: switches add up, steps are paired differences, claims stay in columns of their own."""

import numpy as np
import pandas as pd
import pytest

from ovsslib.errors import DataError, RecipeError
from ovsslib.evaluation.profiles import Profile
from ovsslib.evaluation.report import Report
from ovsslib.evaluation.results import Results
from ovsslib.recipe import Recipe
from ovsslib.study.claims import claim
from ovsslib.study.cumulative import accumulate, as_text, steps, steps_table


def report(right: int, images: int = 60) -> Report:
    """Two classes of 100 pixels each, `right` of them found in each image."""
    per_class = np.array([[right, right], [100, 100], [100, 100]])
    return Report(
        recipe=Recipe("test"), dataset="scenes", model="tiny", names=("sky", "person"),
        counts=np.stack([per_class] * images), boundary_counts=np.full((images, 4), 5),
        calibration_counts=np.zeros((images, 10, 3), dtype=np.int64), indices=np.arange(images),
    )  # fmt: skip


@pytest.fixture()
def results() -> Results:
    reports = {"baseline": report(50), "+ RCS": report(60), "+ SFR": report(60)}
    return Results(reports, Profile.named("embedded-quick"))


def test_switches_accumulate_and_the_rows_make_recipes():
    rows = accumulate("thesis-baseline", ["RCS", "CLIPtrase mask"])
    assert list(rows) == ["baseline", "+ RCS", "+ CLIPtrase mask"]
    assert rows["baseline"] == ("thesis-baseline", {})
    last = Recipe.named("thesis-baseline").but(rows["+ CLIPtrase mask"][1])
    assert "feature_rcs" in last and "local_mask" in last
    assert "local_mask" not in Recipe.named("thesis-baseline").but(rows["+ RCS"][1])


@pytest.mark.parametrize("switches", [["RCS", "RCS"], ["unknown"]])
def test_unknown_or_repeated_switches_are_refused(switches):
    with pytest.raises(RecipeError, match="choose different ones of LoftUp"):
        accumulate("thesis-baseline", switches)


def test_steps_are_differences_to_the_row_before_or_to_the_first(results):
    claims = {"baseline": "thesis-t4.1-baseline-miou", "+ RCS": "thesis-t4.1-rcs-miou"}
    before = steps(results, claims=claims)
    iou = [100 * right / (200 - right) for right in (50, 60, 60)]
    assert before["value"].tolist() == pytest.approx(iou)
    assert before["step"].tolist()[1:] == pytest.approx([iou[1] - iou[0], 0])
    assert np.isnan(before["step"].iloc[0])
    assert before["verdict"].tolist() == ["", "better", "no difference shown"]
    expected = claim("thesis-t4.1-rcs-miou").value - claim("thesis-t4.1-baseline-miou").value
    assert before.loc["+ RCS", "claimed_step"] == pytest.approx(expected)
    assert np.isnan(before.loc["+ SFR", "claimed"])
    first = steps(results, against="first")
    assert first["step"].tolist()[1:] == pytest.approx([iou[1] - iou[0]] * 2)


def test_table_keeps_claims_apart_and_names_what_they_are_about(results):
    claims = {"+ RCS": "thesis-t4.1-rcs-miou"}
    table = steps_table(results, claims=claims, claimed_for="another data set")
    assert table.columns[0] == "claimed for another data set: mIoU"
    assert table.iloc[1, 0] == f"{claim('thesis-t4.1-rcs-miou').text} % (projected)"
    assert table.iloc[0, 0] == "" and table["measured step"].iloc[0] == ""
    assert "claimed step" not in steps_table(results).columns


def test_wrong_requests_are_refused(results):
    with pytest.raises(DataError, match="'previous' or 'first'"):
        steps(results, against="last")
    with pytest.raises(DataError, match="no result is called 'nothing'"):
        steps(results, claims={"nothing": "thesis-t4.1-rcs-miou"})


def test_numbers_become_text_with_intervals_and_unknown_ones_stay_empty():
    frame = pd.DataFrame(
        {
            "switch": ["a", "b"], "gain": [1.0, np.nan], "gain_low": [0.5, np.nan],
            "gain_high": [2.0, np.nan], "verdict": ["better", "no difference shown"],
        }
    )  # fmt: skip
    text = as_text(frame, ["switch"], {"points": "gain"})
    assert text.loc["a", "points"] == "+1.00 [+0.50, +2.00]"
    assert text.loc["b", "points"] == ""
    assert as_text(frame, ["switch"], {"points": "gain"}, signed=False).loc["a", "points"][0] == "1"
