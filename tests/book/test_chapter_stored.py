"""What a chapter has of the store, and what words of one's own leave of a data set's recipe."""

import pytest

from ovsslib.book.chapter import chapter
from ovsslib.evaluation.store import FRESH_VARIABLE, ResultsStore


def test_a_build_that_measures_again_measures_what_the_ordinary_store_has(tmp_path, monkeypatch):
    book = chapter("embedded")
    monkeypatch.setenv(FRESH_VARIABLE, str(tmp_path / "fresh"))
    assert not ResultsStore().keys() and ResultsStore.ordinary().keys()
    asked = []
    monkeypatch.setattr(
        "ovsslib.book.chapter.measure", lambda recipes, profile, **_: asked.append(sorted(recipes))
    )
    book.stored(["sclip", "clip"])
    monkeypatch.setattr("ovsslib.book.chapter.stored", lambda *_, **__: {"clip": None})
    book.stored(["sclip", "clip"])
    assert asked == [["clip", "sclip"], ["clip"]]


@pytest.mark.parametrize(
    ("recipe", "changes"),
    [
        ("clip-diy", {}),
        ("sclip", {"entropy_threshold": True}),
        ("sclip", {"labels.probability_threshold": 0.3}),
    ],
)
def test_words_of_ones_own_need_no_background(recipe, changes):
    book = chapter("embedded-object")
    assert book.recipe(recipe, changes).has("needs_background")
    assert not book.for_words(recipe, changes).has("needs_background")
