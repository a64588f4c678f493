"""Figures are made from data and hold what they were given."""

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from ovsslib.book import figures
from ovsslib.book.figures.panels import paint
from ovsslib.errors import RecipeError
from ovsslib.recipe import Recipe, recipe_names

TABLE = pd.DataFrame(
    {
        "value": [10.0, 30.0, 32.0],
        "low": [9.0, 28.0, 30.0],
        "high": [11.0, 32.0, 34.0],
        "seconds": [0.1, 0.3, 0.2],
        "claimed": [22.77, np.nan, 30.0],
    },
    index=["clip", "sclip", "naclip"],
)


def texts(figure: Figure) -> str:
    return " ".join(t.get_text() for t in figure.findobj(lambda a: hasattr(a, "get_text")))


def test_dots_show_every_row_measured_and_claimed():
    figure = figures.dots(TABLE, claimed="claimed")
    labels = [t.get_text() for t in figure.axes[0].get_yticklabels()]
    assert labels == list(TABLE.index)
    claims = next(line for line in figure.axes[0].lines if line.get_marker() == "D")
    assert np.allclose(claims.get_xdata(), TABLE["claimed"], equal_nan=True)


def test_pareto_frontier_leaves_out_dominated_points():
    figure = figures.pareto(TABLE)
    frontier = next(line for line in figure.axes[0].lines if line.get_label() == "frontier")
    assert list(frontier.get_xdata()) == [0.1, 0.2]
    assert list(frontier.get_ydata()) == [10.0, 32.0]


def test_costs_far_apart_stand_on_a_logarithmic_axis_with_plain_numbers():
    assert figures.pareto(TABLE).axes[0].get_xscale() == "linear"
    far = TABLE.assign(seconds=TABLE["seconds"] * [1, 100, 10])
    axes = figures.pareto(far).axes[0]
    assert axes.get_xscale() == "log"
    labels = {tick.get_text() for tick in axes.get_xticklabels()}
    assert {"0.1", "1", "10"} <= labels and not any("^" in text for text in labels)


def test_cumulative_has_accuracy_and_time():
    figure = figures.cumulative(TABLE, claimed="claimed")
    assert [axes.get_ylabel() for axes in figure.axes] == ["mIoU (%)", "seconds per image"]


@pytest.mark.parametrize("name", recipe_names())
def test_pipeline_names_the_active_stages_of_every_recipe(name):
    recipe = Recipe.named(name)
    shown = texts(figures.pipeline(recipe))
    assert all(stage in shown for stage in recipe.stages)


def test_paint_leaves_ignored_pixels_white():
    painted = paint(np.array([[0, 1], [255, 0]]), np.array([[1, 2, 3], [4, 5, 6]]))
    assert painted[0, 1].tolist() == [4, 5, 6]
    assert painted[1, 0].tolist() == [255, 255, 255]


def test_mask_panel_lists_only_the_classes_that_occur():
    image = np.zeros((20, 30, 3), np.uint8)
    figure = figures.mask_panel(image, {"truth": np.full((20, 30), 2)}, ["sky", "grass", "dog"])
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["dog"]


def test_attention_and_features_are_drawn():
    image = np.zeros((32, 48, 3), np.uint8)
    maps = {"q-k": np.random.default_rng(0).random((2, 3)), "CSA": np.ones((2, 3))}
    assert "CSA" in texts(figures.attention_panel(image, maps, (1, 2)))
    features = {"coarse": torch.rand(8, 2, 3), "fine": torch.rand(8, 4, 6)}
    assert "fine" in texts(figures.feature_panel(image, features))


def test_reliability_and_bars():
    curve = pd.DataFrame({"confidence": [0.1, 0.5], "accuracy": [0.2, 0.6], "share": [0.4, 0.6]})
    assert figures.reliability({"before": curve, "after": curve}).axes[1].get_title() == "after"
    assert "2.5" in texts(figures.bars({"a": 2.5, "b": 1.0}, "seconds"))
    figure = figures.scatter_claims([1, 2], [3, 4], ["clip", "sclip"], "published", "measured")
    assert "sclip" in texts(figure)


def test_pipeline_shows_densecrf_where_it_runs_behind_the_confidence():
    drawn = texts(figures.pipeline(Recipe.named("thesis-2c")))
    order = [drawn.index(word) for word in ("feedback", "hierarchy", "densecrf", "labels")]
    assert order == sorted(order)
    with_pamr = texts(figures.pipeline(Recipe.named("thesis-2c").but(pamr=True)))
    assert with_pamr.index("pamr") < with_pamr.index("calibration") < with_pamr.index("densecrf")


def test_names_of_points_cover_neither_each_other_nor_a_point():
    claimed, measured = [4.4, 22.8, 23.0, 24.0], [4.8, 18.9, 19.0, 30.0]
    figure = figures.scatter_claims(
        measured, claimed, ["q-q", "v-v", "k-k", "a long name at the edge"], "x", "y"
    )
    axes = figure.axes[0]
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == 4
    for place, box in enumerate(boxes):
        assert box.count_overlaps(boxes[:place]) == 0
        assert box.x1 <= figure.bbox.x1
        for point in axes.transData.transform(list(zip(claimed, measured, strict=True))):
            assert not box.contains(*point)


def test_attention_panel_wraps_its_maps():
    image = np.zeros((32, 48, 3), np.uint8)
    maps = {f"layer {one}": np.ones((2, 3)) for one in range(4)}
    figure = figures.attention_panel(image, maps, (1, 2), columns=3)
    shown = [place for place in figure.axes if place.images]
    assert len(shown) == 5 and len({round(place.get_position().y0, 3) for place in shown}) == 2


def test_dots_take_less_room_with_less_spacing():
    table = pd.DataFrame(
        {"value": [1.0] * 30, "low": [0.5] * 30, "high": [2.0] * 30}, index=map(str, range(30))
    )
    assert (
        figures.dots(table, spacing=0.2).get_size_inches()[1]
        < figures.dots(table).get_size_inches()[1]
    )


def test_scatter_takes_values_by_position():
    measured = pd.Series([4.8, 18.9], index=[0, 1])
    figure = figures.scatter_claims(measured, pd.Series([1.0, 2.0]), ["clip", "sclip"], "x", "y")
    points = [line.get_xydata()[0].tolist() for line in figure.axes[0].lines]
    assert points == [[1.0, 4.8], [2.0, 18.9]]


def test_upright_bars_have_a_legend_of_their_groups():
    figure = figures.columns(
        {"sky": 12.0, "dog": 1.0, "cat": 2.0}, "share (%)", {"sky": "stuff", "dog": "thing"}
    )
    axes = figure.axes[0]
    assert [bar.get_height() for bar in axes.patches] == [12.0, 1.0, 2.0]
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["stuff", "thing"]
    assert axes.patches[0].get_facecolor() != axes.patches[1].get_facecolor()
    assert figures.columns({"sky": 12.0}, "share (%)").axes[0].get_legend() is None


def test_a_label_sheet_has_each_label_map_below_its_picture():
    image = np.full((20, 30, 3), 7, np.uint8)
    pairs = [(image, np.full((20, 30), label)) for label in (2, 0, 255)]
    figure = figures.label_sheet(pairs, ["sky", "grass", "dog"], columns=2)
    shown = [
        axes.images[0].get_array()[0, 0].tolist() if axes.images else None for axes in figure.axes
    ]
    assert shown[:2] == [[7, 7, 7]] * 2 and shown[4] == [7, 7, 7] and shown[5] is None
    assert shown[6] == [255, 255, 255] and shown[2] != shown[3]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["sky", "dog"]


def test_pipeline_tells_the_main_settings_though_they_are_the_defaults():
    drawn = texts(figures.pipeline(Recipe.named("thesis-phase1")))
    for told in (
        "prompts imagenet80",
        "method loftup",
        "alpha 0.3",
        "parameters standard",
        "logit_scale",
    ):
        assert told in drawn


def test_pictures_stand_in_even_rows():
    picture = np.zeros((20, 30, 3), np.uint8)
    for count, columns in ((3, 3), (5, 3), (6, 3), (8, 4)):
        figure = figures.picture_row({str(number): picture for number in range(count)}, columns=4)
        assert figure.axes[0].get_subplotspec().get_gridspec().ncols == columns


def test_maps_with_limits_share_one_scale_and_its_bar():
    maps = {
        "a": np.full((4, 6), 0.2),
        "b": np.full((4, 6), 0.7),
        "picture": np.zeros((4, 6, 3), np.uint8),
    }
    figure = figures.picture_row(maps, limits=(0, 1), label="confidence")
    drawn = [axes.images[0].get_clim() for axes in figure.axes if axes.get_title() in ("a", "b")]
    assert drawn == [(0, 1), (0, 1)]
    assert figure.axes[-1].get_xlabel() == "confidence"


def test_dots_draw_the_intervals_that_they_are_given():
    """Not symmetric, with a value outside its interval, one without an interval, two of one name."""
    table = pd.DataFrame(
        {"value": [10.0, 30.0, 32.0], "low": [9.0, 31.0, np.nan], "high": [14.0, 33.0, np.nan]},
        index=["a", "b", "b"],
    )
    axes = figures.dots(table).axes[0]
    spans = [line.get_xdata() for line in axes.lines if line.get_marker() in ("None", "", None)]
    ends = {(min(x), max(x)) for x in spans if np.isfinite(x).any()}
    assert {(9.0, 14.0), (31.0, 33.0)} <= ends
    points = next(line for line in axes.lines if line.get_marker() == "o")
    assert list(points.get_xdata()) == [10.0, 30.0, 32.0]
    top, bottom = axes.get_yticks()[[0, -1]]
    assert axes.transData.transform((0, top))[1] > axes.transData.transform((0, bottom))[1]


def test_slopes_rank_both_sides_and_tell_rising_from_falling():
    figure = figures.slopes([10, 20, 30], [5, 9, 7], ["a", "b", "c"], "published", "measured")
    axes = figure.axes[0]
    lines = [line for line in axes.lines if len(line.get_xdata()) == 2]
    ends = {tuple(line.get_ydata()) for line in lines}
    assert ends == {(3, 3), (2, 1), (1, 2)}
    tints = {tuple(line.get_ydata()): line.get_color() for line in lines}
    assert len(set(tints.values())) == 3
    said = [text.get_text() for text in axes.texts]
    assert said[:3] == ["c 30.0", "b 20.0", "a 10.0"] and said[3:] == ["b 9.0", "c 7.0", "a 5.0"]
    assert axes.transData.transform((0, 1))[1] > axes.transData.transform((0, 3))[1]
    tied = figures.slopes([1, 1, 2], [1, 2, 3], ["a", "b", "c"], "x", "y")
    assert "a 1.0, b 1.0" in [text.get_text() for text in tied.axes[0].texts]


def test_a_heat_map_has_every_number_and_its_label():
    table = pd.DataFrame([[1.25, np.nan], [-3.0, 4.0]], index=["off", "on"], columns=["x", "y"])
    figure = figures.heat_map(table, "gain (points)", 0.0, "+.2f")
    axes, bar = figure.axes
    assert sorted(text.get_text() for text in axes.texts) == ["+1.25", "+4.00", "-3.00"]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["off", "on"]
    assert bar.get_ylabel() == "gain (points)"
    mesh = axes.collections[0]
    assert mesh.norm.vmin + mesh.norm.vmax == 0  # losses and gains of one size are equally strong


def test_letters_of_a_wide_figure_are_larger():
    picture = np.zeros((20, 30, 3), np.uint8)
    sizes = [
        figures.picture_row({str(n): picture for n in range(count)}, columns=5)
        .axes[0]
        .title.get_fontsize()
        for count in (2, 5)
    ]
    assert sizes[0] == 10 and sizes[1] > 12


def test_gaps_leave_the_other_points_as_they_are():
    table = pd.DataFrame(
        {"seconds": [1.0, 2.0, 3.0], "value": [40.0, np.nan, 60.0], "low": 30.0, "high": 70.0},
        ["cheap", "unmeasured", "dear"],
    )
    frontier = [
        line for line in figures.pareto(table).axes[0].lines if line.get_linestyle() == "--"
    ]
    assert frontier[0].get_ydata().tolist() == [40.0, 60.0]
    said = [
        text.get_text()
        for text in figures.slopes([1, np.nan, 3], [2, 5, 1], "abc", "l", "r").axes[0].texts
    ]
    assert said and not any("b" in text for text in said)


def test_pareto_shows_groups_apart_and_names_them():
    table = TABLE.assign(group=["CLIP alone", "CLIP alone", "with masks"])
    figure = figures.pareto(table, group="group")
    legend = [t.get_text() for t in figure.legends[0].get_texts()]
    assert {"CLIP alone", "with masks", "frontier"} <= set(legend)
    assert figure.axes[0].get_legend() is None
    dots = next(c for c in figure.axes[0].collections if len(c.get_offsets()) == len(table))
    assert len({tuple(colour) for colour in dots.get_facecolors()}) == 2


def test_similarity_of_a_patch_is_its_cosine_with_all():
    features = torch.tensor(
        [[[1.0, 0.0, -2.0], [3.0, 1.0, 0.0]], [[0.0, 4.0, 0.0], [0.0, 1.0, 0.0]]]
    )
    found = figures.similarity_map(features, (0, 0))
    assert np.allclose(found, [[1, 0, -1], [1, np.sqrt(0.5), 0]])
    with pytest.raises(RecipeError, match="2 rows and 3 columns"):
        figures.similarity_map(features, (2, 0))


def test_similarity_panel_frames_the_patch_that_holds_the_pixel():
    image = np.zeros((32, 48, 3), np.uint8)
    maps = {"guide": (torch.rand(3, 4, 6), 8), "CLIP": (torch.rand(5, 2, 3), 16)}
    figure = figures.similarity_panel(image, maps, (20, 30))
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[:3] == ["the patch", "guide", "CLIP"]
    corners = [axes.patches[0].get_xy() for axes in figure.axes[1:3]]
    assert corners == [(24, 16), (16, 16)]
    with pytest.raises(RecipeError):
        figures.similarity_panel(image, maps, (32, 0))


def test_a_heat_map_keeps_its_cells_beside_long_names(recwarn):
    names = ["plain names, 20 distractors + background chosen for the words + offset", "plurals"]
    figure = figures.heat_map(pd.DataFrame({"a": [1.0, 2.0]}, names), "points", centre=0)
    figure.canvas.draw()
    assert figure.axes[0].get_position().width > 0.2
    assert not [one for one in recwarn if "layout" in str(one.message)]  # nothing else is ours
    ticks = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert [tick.replace("\n", " ") for tick in ticks] == names and "\n" in ticks[0]
