"""Controls on an opened picture, driven as a program would: values are set, figures are read. No front end is needed."""

import numpy as np
import pytest

from ovsslib.book import widgets
from ovsslib.book.explorer import PictureExplorer, words_of
from ovsslib.errors import RecipeError
from ovsslib.recipe import Recipe
from ovsslib.segmenter import Segmenter

IMAGE = np.random.default_rng(0).integers(0, 256, (70, 100, 3), dtype=np.uint8)
SMALL = {"windows.short_side": 80, "text.prompts": "none"}
WORDS = ["dog", "grass", "sky"]
PATCH = (2, 3)


def opened(backbone, name="sclip", changes=None):
    return Segmenter(backbone, Recipe.named(name).but({**SMALL, **(changes or {})})).open(IMAGE)


@pytest.fixture
def explorer(tiny_backbone, monkeypatch):
    """The figures are read as they are; painting them as PNG is left out, which costs most."""
    monkeypatch.setattr("ovsslib.book.explorer._png", lambda figure: b"")
    return PictureExplorer(opened(tiny_backbone), PATCH, WORDS)


def shown_map(explorer) -> np.ndarray:
    """The map (h, w) in the figure, relative to its maximum."""
    return np.asarray(explorer.figures["attention"].axes[1].images[1].get_array())


def shown_mask(explorer) -> np.ndarray:
    """The painted label map (H, W, 3) in the figure."""
    return np.asarray(explorer.figures["mask"].axes[1].images[0].get_array())


def relative(weights: np.ndarray) -> np.ndarray:
    return weights / weights.max()


def test_the_start_is_the_recipe_as_it_is(explorer):
    assert explorer.changes == {} and not explorer.message
    np.testing.assert_allclose(shown_map(explorer), relative(explorer.opened.attention(PATCH)))
    mask = explorer.opened(WORDS).mask
    assert len(np.unique(shown_mask(explorer).reshape(-1, 3), axis=0)) == len(np.unique(mask))
    assert {name for name in explorer.controls if explorer.controls[name].value is True} == {
        "qq", "kk", "residual", "feed_forward",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("values", "asked"),
    [
        ({"row": 4, "column": 0}, {"patch": (4, 0)}),
        ({"head": 2}, {"head": 2}),
        ({"block": 5}, {"layer": 5, "terms": "qq+kk"}),
        ({"temperature": 0.25}, {"temperature": 0.25}),
        ({"block": 3, "head": 1, "temperature": 4.0}, {"layer": 3, "head": 1, "terms": "qq+kk", "temperature": 4.0}),
    ],
)  # fmt: skip
def test_controls_of_the_map(explorer, values, asked):
    before, mask = shown_map(explorer), shown_mask(explorer)
    for name, value in values.items():
        explorer.controls[name].value = value
    assert not explorer.message and explorer.changes == {}
    wanted = explorer.opened.attention(**{"patch": PATCH, **asked})
    np.testing.assert_allclose(shown_map(explorer), relative(wanted))
    assert np.abs(shown_map(explorer) - before).max() > 1e-3
    assert (shown_mask(explorer) == mask).all()


@pytest.mark.parametrize(
    ("values", "changes"),
    [
        ({"kk": False}, {"attention.terms": "qq"}),
        ({"qk": True}, {"attention.terms": "qk+qq+kk"}),
        ({"gaussian": 1.0}, {"attention.gaussian_std": 1.0}),
        ({"residual": False}, {"attention.residual": False}),
        ({"feed_forward": False, "vv": True}, {"attention.feed_forward": False, "attention.terms": "qq+kk+vv"}),
    ],
)  # fmt: skip
def test_switches_change_the_last_block(explorer, values, changes, tiny_backbone):
    for name, value in values.items():
        explorer.controls[name].value = value
    assert explorer.changes == changes and not explorer.message
    other = opened(tiny_backbone, changes=changes)
    np.testing.assert_allclose(shown_map(explorer), relative(other.attention(PATCH)))
    start = PictureExplorer(other, PATCH, WORDS)
    assert (shown_mask(explorer) == shown_mask(start)).all()
    assert "changed" in explorer.figures["attention"].axes[1].get_title()
    for name, value in values.items():
        explorer.controls[name].value = not value if isinstance(value, bool) else 0
    assert explorer.changes == {}


def test_a_temperature_spreads_and_gathers(tiny_backbone):
    picture = opened(tiny_backbone, "clip")
    cold, plain, hot = (picture.attention(PATCH, temperature=t) for t in (0.1, 1.0, 10.0))
    assert cold.max() > plain.max() > hot.max()
    assert np.ptp(picture.attention(PATCH, temperature=1e6)) < 1e-6
    np.testing.assert_array_equal(picture.attention(PATCH), plain)
    with pytest.raises(RecipeError, match="temperature=0.*above 0"):
        picture.attention(PATCH, temperature=0)


def test_what_cannot_be_had_is_told_and_the_pictures_stay(explorer):
    before = explorer.figures
    for name in ("qq", "kk"):
        explorer.controls[name].value = False
    assert "keep at least one of the terms" in explorer.message
    assert explorer.message in explorer.children[-3].value
    explorer.controls["value"].value = explorer.controls["vv"].value = True
    assert "attention.terms='vv+value'" in explorer.message
    explorer.controls["vv"].value = False
    assert not explorer.message and explorer.figures is not before
    assert shown_map(explorer).sum() == 1  # each token sees itself only
    with pytest.raises(RecipeError, match="5 rows and 7 columns"):
        PictureExplorer(explorer.opened, (9, 9))


def test_words_are_optional(tiny_backbone):
    explorer = PictureExplorer(opened(tiny_backbone))
    picture = explorer.children[-1]
    assert set(explorer.figures) == {"attention"} and picture.layout.display == "none"
    explorer.controls["words"].value = "dog; grass | lawn"
    assert bytes(picture.value).startswith(b"\x89PNG") and picture.layout.display is None
    names = [text.get_text() for text in explorer.figures["mask"].legends[0].get_texts()]
    assert set(names) <= {"dog", "grass"}
    assert words_of("dog; grass | lawn") == ["dog", "grass | lawn"]


def test_recipes_with_a_neighbourhood_start_as_they_are(tiny_backbone):
    explorer = PictureExplorer(opened(tiny_backbone, "naclip", {"attention.terms": "neighbour"}))
    assert explorer.changes == {} and explorer.controls["gaussian"].value == 5
    explorer.controls["qk"].value = True
    assert explorer.changes == {"attention.terms": "qk"} and not explorer.message


def test_without_a_reader_one_picture_is_shown(explorer, monkeypatch):
    shown = []
    monkeypatch.setattr(widgets, "display", shown.append)
    monkeypatch.setenv("OVSSLIB_WIDGETS", "0")
    assert widgets.explore_picture(explorer.opened, PATCH, WORDS) is None
    assert len(shown) == 2
    monkeypatch.setenv("OVSSLIB_WIDGETS", "1")
    assert isinstance(widgets.explore_picture(explorer.opened), PictureExplorer)
    assert len(shown) == 2
