"""The figures that the thesis has and the book had not: phases with switches, rows of masks, panels side by side."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from ovsslib.book.figures import mask_rows, pareto, phase_flow, side_by_side
from ovsslib.book.figures.phases import PHASES, phase_steps
from ovsslib.recipe import Recipe

KEYS = {
    "use_loftup", "use_resclip_rcs", "use_resclip_sfr", "use_densecrf", "use_cliptrase", "use_cliprc",
    "use_hierarchical", "use_calibration",
}  # fmt: skip


def test_each_switch_stands_once_and_says_what_the_recipe_has():
    config = dict.fromkeys(sorted(KEYS), False) | {"use_cliprc": True, "use_calibration": True}
    steps = phase_steps(Recipe.from_thesis_config({**config, "template_strategy": "top7"}))
    switched = {step.key: step.on for step in steps if step.key}
    assert switched == config
    assert {step.phase for step in steps} == set(PHASES)
    [prompts] = [step for step in steps if step.title == "prompts"]
    assert prompts.told == "template_strategy: top7" and steps[-1].title == "labels"


def test_steps_stand_in_the_order_of_the_flow():
    order = [step.title for step in phase_steps(Recipe.named("thesis-2c"))]
    pairs = (
        ("prompts", "local mask"),
        ("local mask", "LoftUp"),
        ("LoftUp", "RCS"),
        ("RCS", "SFR"),
        ("SFR", "DenseCRF"),
    )
    for first, second in pairs:
        assert order.index(first) < order.index(second), order
    assert all(step.on for step in phase_steps(Recipe.named("thesis-2c")) if step.key)


def test_the_figure_tells_on_from_off_and_phases_by_colour():
    figure = phase_flow(Recipe.named("thesis-phase1"))
    [axes] = figure.axes
    words = [text.get_text() for text in axes.texts]
    assert words.count("on") == 4 and words.count("off") == 4
    assert KEYS <= set(words)
    faces = {to_hex(patch.get_facecolor()) for patch in axes.patches}
    assert {PHASES["phase 1"], PHASES["phase 2B"], "#ffffff"} <= faces
    assert PHASES["phase 2A"] not in faces, "what is off is not filled"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(PHASES)


def test_rows_of_masks_have_one_legend_of_what_occurs():
    image = np.zeros((20, 30, 3), np.uint8)
    maps = {"before: 3 %": np.zeros((20, 30), int), "after: 4 %": np.full((20, 30), 2)}
    figure = mask_rows(
        [("a ball: gains most", image, maps), ("a ball: loses most", image, maps)],
        ["sky", "dog", "cat"],
    )
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == [*("a ball: gains most", *maps), *("a ball: loses most", *maps)]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["sky", "cat"]


def test_panels_share_their_rows():
    names = ["many", "few"]
    plain = pd.DataFrame({"value": [80.0, 7.0]}, index=names)
    sure = pd.DataFrame({"value": [50.0, 51.0], "low": [49, 50], "high": [51, 52]}, index=names)
    figure = side_by_side({"sentences": plain, "mIoU (%)": sure})
    first, second = figure.axes
    assert [label.get_text() for label in first.get_yticklabels()] == names
    assert [patch.get_width() for patch in first.patches] == [80.0, 7.0]
    assert second.get_xlabel() == "mIoU (%)" and not second.patches
    assert first.get_ylim() == second.get_ylim()


@pytest.mark.parametrize("ceiling", [None, ("supervised", 90.0)])
def test_a_ceiling_is_a_line_and_no_point_of_the_frontier(ceiling):
    table = pd.DataFrame(
        {"seconds": [1.0, 2.0], "value": [40.0, 60.0], "low": [39, 59], "high": [41, 61]},
        index=["a", "b"],
    )
    figure = pareto(table, ceiling=ceiling)
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert ("supervised" in lines) == (ceiling is not None)
    assert list(lines["frontier"].get_ydata()) == [40.0, 60.0]
    if ceiling:
        assert set(lines["supervised"].get_ydata()) == {90.0}
