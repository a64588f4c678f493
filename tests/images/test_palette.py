import subprocess
import sys

import numpy as np
import pytest

from ovsslib.errors import OvssError
from ovsslib.images import palette
from ovsslib.text.vocabulary import Vocabulary


def closest(colours: np.ndarray) -> float:
    """The smallest separation between two different colours of a list."""
    distance = palette.separation(colours, colours)
    np.fill_diagonal(distance, np.inf)
    return float(distance.min())


@pytest.mark.parametrize(("count", "least"), [(7, 11), (20, 10), (40, 6), (64, 5)])
def test_colours_can_be_told_apart_by_colour_blind_readers(count, least):
    assert closest(palette.colours(count)) > least


@pytest.mark.parametrize("count", [0, 1, 7, 40, 200, 300])
def test_fewer_colours_are_a_beginning_of_more(count):
    chosen = palette.colours(count)
    assert chosen.shape == (count, 3) and chosen.dtype == np.uint8
    np.testing.assert_array_equal(chosen[:40], palette.colours(64)[: min(count, 40)])


def test_colours_are_away_from_background_paper_and_ink():
    others = [palette.BACKGROUND, (255, 255, 255), (0, 0, 0)]
    assert palette.separation(palette.colours(40), others).min() > 9


def test_separation_is_not_taken_in_by_saturated_blues():
    blues = np.array([[0, 0, 255], [17, 17, 204]])
    lab = palette._lab(blues, np.eye(3))
    assert palette.separation(blues[:1], blues[1:])[0, 0] < 0.5 * np.linalg.norm(lab[0] - lab[1])


def test_every_class_of_scenes_has_a_clear_colour_of_its_own():
    names = Vocabulary.named("scenes").names
    assert set(names) <= set(palette._KNOWN_CLASSES)
    assert closest(palette.class_colours(names)) > 6


def test_separation_sees_what_a_protanope_confuses():
    red, green = np.array([[200, 60, 60]]), np.array([[112, 112, 50]])
    normal = np.linalg.norm(
        palette._lab(red, palette._VISIONS[0]) - palette._lab(green, palette._VISIONS[0])
    )
    assert palette.separation(red, green)[0, 0] < 0.5 * normal


def test_lab_of_known_colours():
    lab = palette._lab(np.array([[255, 255, 255], [0, 0, 0], [255, 0, 0]]), np.eye(3))
    np.testing.assert_allclose(lab, [[100, 0, 0], [0, 0, 0], [53.24, 80.09, 67.20]], atol=0.02)


def test_negative_count_is_refused():
    with pytest.raises(OvssError, match="-3 colours"):
        palette.colours(-3)


def test_a_class_keeps_its_colour_in_another_list_and_order():
    first = dict(
        zip(
            ["sky", "dog", "zebra"],
            palette.class_colours(["sky", "dog", "zebra"]).tolist(),
            strict=True,
        )
    )
    second = dict(
        zip(["zebra", "Sky"], palette.class_colours(["zebra", "Sky"]).tolist(), strict=True)
    )
    assert first["sky"] == second["Sky"]
    assert first["zebra"] == second["zebra"]


def test_background_is_grey_by_name_or_by_kind():
    rows = palette.class_colours(
        ["background", "wall", "dog"], ["background", "background", "thing"]
    )
    assert rows[0].tolist() == rows[1].tolist() == list(palette.BACKGROUND)
    assert rows[2].tolist() != list(palette.BACKGROUND)


@pytest.mark.parametrize("count", [2, 12, 40, 171])
def test_classes_of_one_list_have_different_colours(count):
    rows = palette.class_colours([f"class {number}" for number in range(count)])
    assert len(np.unique(rows, axis=0)) == count
    if count <= 28:
        assert closest(rows) > 6


def test_kinds_must_match_the_names():
    with pytest.raises(OvssError, match="2 class names but 1 kinds"):
        palette.class_colours(["a", "b"], ["thing"])


def test_colours_are_the_same_in_another_process():
    names = ["zebra", "kettle", "sky"]
    code = f"from ovsslib.images import palette; print(palette.class_colours({names}).tolist())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(palette.class_colours(names).tolist())


def test_recipes_have_fixed_and_different_colours():
    names = ["sclip", "naclip", "itaclip", "my own"]
    several = palette.recipe_colours(names)
    assert len(set(several.values())) == len(names)
    assert several["naclip"] == palette.recipe_colour("naclip") == "#e69f00"


def test_colormap_draws_each_label_in_its_colour():
    names = ["background", "dog", "sky"]
    table, norm = palette.colormap(names)
    drawn = (table(norm(np.array([0, 1, 2])))[:, :3] * 255).round().astype(np.uint8)
    np.testing.assert_array_equal(drawn, palette.class_colours(names))
