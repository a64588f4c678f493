"""The boxes at the chapters' ends say what the results say, and nothing where there is nothing to say."""

import numpy as np
import pandas as pd
import pytest
from book_texts import NOTEBOOKS, cells

from ovsslib.book import findings
from ovsslib.book.findings import Comparison, compared, pictured, rows_of, stepped, told
from ovsslib.errors import DataError
from ovsslib.evaluation.intervals import NOT_SHOWN
from ovsslib.evaluation.profiles import Profile
from ovsslib.evaluation.report import Report
from ovsslib.evaluation.results import Results
from ovsslib.recipe import Recipe


def report(right: np.ndarray) -> Report:
    """Two classes of 100 pixels each, `right` (N,) of them found in each image."""
    images = len(right)
    one = np.full((images, 2), 100)
    counts = np.stack([np.stack([right, right], axis=1), one, one], axis=1)
    return Report(
        recipe=Recipe("test"), dataset="scenes", model="tiny", names=("sky", "person"),
        counts=counts, boundary_counts=np.full((images, 4), 5),
        calibration_counts=np.zeros((images, 10, 3), dtype=np.int64), indices=np.arange(images),
    )  # fmt: skip


def made(images: int = 60) -> Results:
    """A step that gains, one that does nothing (as much up as down), one that loses."""
    noise = np.where(np.arange(images) % 2, 5, -5)
    levels = {"base": 50, "+ up": 60, "+ nothing": 60 + noise, "+ down": 55}
    reports = {name: report(np.zeros(images, dtype=int) + right) for name, right in levels.items()}
    return Results(reports, Profile.named("embedded-quick"))


def bullets(comparison: Comparison) -> dict[str, str]:
    """What is said behind the first colon of each line."""
    lines = [line for line in told(comparison).splitlines() if line.startswith("- ")]
    return {line[2:].partition(":")[0]: line.partition(": ")[2] for line in lines}


def test_gain_nothing_and_loss_are_told_apart():
    said = bullets(stepped(made(), "Steps"))
    assert said["Largest gain"].startswith("**up** +9.52 [")
    assert said["No difference shown, the interval includes zero"].startswith("nothing ")
    assert said["Worse"].startswith("down -")
    alone = rows_of(pd.DataFrame({"value": [1.0], "low": [0.5], "high": [2.0]}, index=["a"]), "One")
    assert "worse" not in told(alone)
    against = bullets(compared(made(), "base"))
    assert "Worse" not in against and "Nothing is shown to be worse." in against
    assert against["Better as well"].count("[") == 2


def test_numbers_are_those_of_the_table():
    results = made()
    row = results.numbers("miou", baseline="base").set_index("recipe").loc["+ down"]
    text = told(compared(results, "base", rows=["+ down"]))
    ends = f"[{row['difference_low']:+.2f}, {row['difference_high']:+.2f}]"
    assert f"{row['difference']:+.2f} {ends}" in text and "up" not in text
    with pytest.raises(DataError, match="no result is called 'none'"):
        compared(results, "base", rows=["none"])


def test_few_images_conclude_nothing():
    text = told(compared(made(4), "base"))
    assert "Too few images for an interval, so nothing is concluded: up +" in text
    assert "Largest gain" not in text and "shown" not in text and "too few images" not in text


def test_intervals_over_too_few_images_are_none():
    frame = pd.DataFrame({"value": [1.0], "low": [1.0], "high": [1.0]}, index=["a"])
    assert "nothing is concluded: a +1.00." in told(rows_of(frame, "Few", images=2))
    assert "Largest gain" in told(rows_of(frame, "Many", images=200))


def test_nothing_gained_is_said_and_the_largest_loss_comes_first():
    frame = pd.DataFrame(
        {"value": [-1.0, -4.0], "low": [-2.0, -5.0], "high": [-0.5, -3.0]}, index=["a", "b_c"]
    )
    text = told(rows_of(frame, "Losses"))
    assert "Nothing is shown to gain anything." in text
    assert text.index("b\\_c") < text.index("a -1.00")
    assert told(rows_of(frame.iloc[:0], "Nothing")) == ""


def test_long_lists_end_in_a_number():
    count = findings.NAMED + 3
    frame = pd.DataFrame({"value": 1.0, "low": 0.5, "high": 2.0}, index=map(str, range(count + 1)))
    assert told(rows_of(frame, "Many")).endswith("; and 3 more.\n- Nothing is shown to be worse.")


def test_a_lower_calibration_error_is_the_gain():
    frame = pd.DataFrame(
        {"gap": [-1.0], "gap_low": [-2.0], "gap_high": [-0.5], "verdict": ["better"]}, index=["t"]
    )
    said = bullets(rows_of(frame, "Error", "gap", "calibration error"))
    assert said["Largest gain"].startswith("**t** -1.00 [-2.00, -0.50]")


def test_a_frame_without_verdicts_is_refused_with_its_columns():
    with pytest.raises(DataError, match="lacks the columns"):
        Comparison("x", pd.DataFrame({"value": [1.0]}))


def test_the_box_has_its_parts_and_leaves_out_what_is_empty():
    text = findings.findings("tiny on nothing", [stepped(made(), "Steps")], ["One.", ""]).data
    assert text.startswith("**Steps** (mIoU, points)\n\n- Largest gain: ")
    assert text.count("- One.") == 1 and "- \n" not in text and text.endswith("*tiny on nothing*")
    assert findings.findings("where", also=["One."]).data == "- One.\n\n*where*"


def test_a_picture_that_misleads_is_called_so():
    results = made()
    text = pictured({"+ up": 70.0, "+ down": 80.0}, results, "the first picture")
    assert text.startswith("The first picture misleads: + up (") and "+ down has 80.0 %" in text
    close = pictured({"+ up": 90.02, "+ down": 90.04}, results)
    assert "agrees" in close, "what reads alike is not told apart"
    assert "agrees" in pictured({"+ up": 90.0, "+ down": 80.0}, results)
    with pytest.raises(DataError, match="at least two"):
        pictured({"+ up": 90.0}, results)


def test_a_picture_misleads_only_where_the_measurement_is_sure():
    results = made(3)  # too few images for an interval
    assert pictured({"+ up": 70.0, "+ down": 80.0}, results) == ""
    equal = Results({name: made()["+ up"] for name in ("a", "b")}, made().profile)
    text = pictured({"a": 70.0, "b": 80.0}, equal)
    assert "by no more than chance over b" in text and "misleads" not in text


def test_what_changes_nothing_is_told_apart_from_what_is_not_shown():
    rows = pd.DataFrame(
        {"value": [0.0, 0.1], "low": [0.0, -1.0], "high": [0.0, 1.0], "verdict": [NOT_SHOWN] * 2},
        ["inert", "unsure"],
    )
    text = told(Comparison("Steps", rows))
    assert "- Changes nothing, on any image: inert." in text
    assert "includes zero: unsure +0.10" in text and "inert +0.00" not in text
    with pytest.raises(DataError, match="verdict 'perhaps'"):
        Comparison("Steps", rows.assign(verdict="perhaps"))


def test_another_number_of_images_stands_in_the_heading():
    comparison = compared(made(60), "base")
    assert "60 images" in told(comparison, 400).splitlines()[0]
    assert "images" not in told(comparison, 60).splitlines()[0]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_chapter_begins_with_its_goal_and_ends_with_its_findings(notebook):
    content = cells(notebook)
    head = content[1].source
    assert head.startswith(":::{admonition} In this chapter"), "the second cell is the head box"
    for part in ("**Goal**: ", "**Time**: ", "**You need**: "):
        assert f"- {part}" in head
    places = [n for n, c in enumerate(content) if "findings" in c.metadata.get("tags", [])]
    assert len(places) == 1 and "hide-input" in content[places[0]].metadata["tags"]
    [place] = places
    assert content[place - 1].source == "## What we found"
    later = [n for n, c in enumerate(content) if "**Exercise 1.**" in c.source]
    assert later and place < later[0]
    assert "findings(" in content[place].source
