"""The picture of the boundary rule shows the very pixels that the metric counts."""

import numpy as np
import pytest

from ovsslib.book.figures import boundary_panel
from ovsslib.book.figures.boundary import CROP, MATCHED, MISSED
from ovsslib.evaluation.metrics import BoundaryRule, boundary_counts, boundary_pixels


def maps(seed, ignored):
    """A blocky label map and a prediction that is the same one moved by three pixels."""
    random = np.random.default_rng(seed)
    label = np.kron(random.integers(0, 4, (6, 8)), np.ones((13, 17), int))
    prediction = np.roll(label, (3, 1), (0, 1))
    if ignored:
        label[random.random(label.shape) < 0.03] = 255
        label[:9, :40] = 255
    return prediction, label


@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("rule", [None, BoundaryRule(), BoundaryRule(tolerance=3, band=2)])
def test_the_pixels_add_up_to_the_counts_of_the_metric(rule, ignored):
    for seed in range(3):
        prediction, label = maps(seed, ignored)
        found = boundary_pixels(prediction, label, 255, rule)
        shown = [found.hit.sum(), found.predicted.sum(), found.found.sum(), found.true.sum()]
        assert shown == boundary_counts(prediction, label, 255, rule).tolist()
        assert (found.hit == (found.predicted & found.near_true)).all()
        assert 0 < found.hit.sum() < found.predicted.sum()
        assert not (found.found & ~found.near_predicted).any()


def test_the_panel_names_its_colours_and_enlarges_where_outlines_are():
    label = np.zeros((120, 160), int)
    label[70:90, 100:130] = 1
    prediction = np.zeros((120, 160), int)
    prediction[70:90, 100:136] = 1
    figure = boundary_panel(np.zeros((120, 160, 3), np.uint8), prediction, label)
    assert [axes.get_title() for axes in figure.axes] == [
        "picture", "precision: predicted outlines", "recall: true outlines",
    ]  # fmt: skip
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names[0].startswith("within 2 pixels") and len(names) == 3
    zoomed = figure.axes[1].images[0].get_array()
    assert zoomed.shape == (*CROP, 3)
    hexes = {
        "#" + "".join(f"{round(255 * value):02x}" for value in row) for row in zoomed.reshape(-1, 3)
    }
    assert {MATCHED, MISSED} <= hexes


def test_a_picture_smaller_than_the_frame_is_shown_whole():
    label = np.zeros((20, 30), int)
    label[:, 15:] = 1
    figure = boundary_panel(np.zeros((20, 30, 3), np.uint8), label, label)
    assert figure.axes[2].images[0].get_array().shape == (20, 30, 3)
