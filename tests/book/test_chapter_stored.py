"""What a chapter has of the store, and what words of one's own leave of a data set's recipe."""

import pytest

from ovsslib.book.chapter import chapter
from ovsslib.errors import RecipeError
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


def test_what_cannot_run_here_is_told_and_the_rest_is_kept(monkeypatch):
    book = chapter("embedded")
    asked = {
        "sclip": "sclip",
        "far": ("proxyclip", {"proxy_attention.guide": "dino-vitb8"}),
        "scorer": ("car", {"car.scorer": "ViT-L-14-quickgelu/nowhere.pt"}),
        "archive": ("reco", {"reco.archive": "no/such/folder"}),
        "here": "proxyclip",
    }
    monkeypatch.setattr("ovsslib.guides.loading.cached_folder", lambda hub: None)
    able, why = book.runnable(asked)
    assert list(able) == ["sclip", "here"] and list(why) == ["far", "scorer", "archive"]
    assert "dino-vitb8" in why["far"] and "local cache" in why["far"]
    assert book.segmenter("proxyclip") is book.segmenter("proxyclip")  # its guide is opened once
    with pytest.raises(RecipeError, match="nosuch"):
        book.runnable(["nosuch"])
