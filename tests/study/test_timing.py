"""Counts of sentences, and seconds that come from the work they name."""

import numpy as np
import pytest

from ovsslib.errors import DataError
from ovsslib.recipe import Recipe
from ovsslib.segmenter import Segmenter
from ovsslib.study import timing
from ovsslib.text.prompts import TextSettings
from ovsslib.text.vocabulary import Vocabulary

WORDS = Vocabulary.from_words(["sky", "person"])
SETTINGS = {"80": TextSettings(), "bare": TextSettings(prompts="none")}


def test_sentences_are_counted_once_each(tiny_backbone):
    counts = timing.prompt_counts(tiny_backbone, WORDS, SETTINGS)
    assert counts["sentences"].tolist() == [160, 2]
    assert counts["sentences_per_word"].tolist() == [80.0, 1.0]
    assert counts.loc["bare", "tokens"] == 6  # start, word, end


def test_seconds_are_shared_by_the_pictures(tiny_backbone, tmp_path, monkeypatch):
    monkeypatch.setenv("OVSSLIB_CACHE", str(tmp_path))
    clock = iter(np.arange(1000.0))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    seconds = timing.encoding_seconds(tiny_backbone, WORDS, {"bare": SETTINGS["bare"]}, (1, 4))
    row = seconds.loc["bare"]
    assert row["encode"] == row["recall"] == 1.0  # two readings of a clock that ticks once each
    assert row["per picture, 4"] == pytest.approx(1 / 4 + 1)


def test_each_recipe_is_timed_alone(tiny_backbone, tmp_path, monkeypatch):
    monkeypatch.setenv("OVSSLIB_CACHE", str(tmp_path))
    clock = iter(np.arange(1000.0))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    recipe = Recipe("tiny").but(
        {"windows.short_side": 64, "windows.crop": 64, "windows.stride": 64}
    )
    calls = []
    segmenter = Segmenter(tiny_backbone, recipe)
    original = Segmenter.segment
    monkeypatch.setattr(
        Segmenter, "segment", lambda self, *a: calls.append(self) or original(self, *a)
    )
    image = np.zeros((64, 64, 3), np.uint8)
    found = timing.seconds_per_image({"tiny": segmenter}, [image, image], WORDS, repeats=3)
    assert found["tiny"] == 0.5
    assert len(calls) == 2 * (1 + 3)


def test_equal_labels_are_counted_over_all_pixels(tiny_backbone):
    recipe = Recipe("tiny").but(
        {"windows.short_side": 64, "windows.crop": 64, "windows.stride": 64, "text.prompts": "none"}
    )
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, size, dtype=np.uint8) for size in ((64, 64, 3), (64, 96, 3))]
    ones = Segmenter(tiny_backbone, recipe)
    other = Segmenter(tiny_backbone, recipe.but({"attention.terms": "qq"}))
    masks = [[s(image, WORDS).mask for image in images] for s in (ones, other)]
    expected = sum(int((a == b).sum()) for a, b in zip(*masks, strict=True)) / (64 * 160)
    assert timing.equal_labels(ones, other, images, WORDS) == expected
    assert 0 < expected < 1 == timing.equal_labels(ones, ones, images, WORDS)
    with pytest.raises(DataError, match="no pictures"):
        timing.equal_labels(ones, other, [], WORDS)
