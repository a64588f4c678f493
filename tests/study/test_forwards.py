"""Forwards are counted where they run, and nothing of the counting stays behind."""

import numpy as np
import pytest
import torch
from guide_cases import tiny_guide

from ovsslib.recipe import Recipe
from ovsslib.segmenter import Segmenter
from ovsslib.study.cost import random_text
from ovsslib.study.forwards import Forwards, counted_forwards

IMAGE = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
WINDOWS = {"windows": {"short_side": 64, "crop": 64, "stride": 32}}


@pytest.fixture
def guided(monkeypatch):
    monkeypatch.setattr(Segmenter, "_guide", lambda self: tiny_guide())


def counted(backbone, recipe: Recipe) -> Forwards:
    segmenter = Segmenter(backbone, recipe)
    return counted_forwards(segmenter, IMAGE, random_text(segmenter, 4))


def test_one_forward_for_every_window(tiny_backbone):
    found = counted(tiny_backbone, Recipe.named("naclip", "coco_stuff").but(WINDOWS))
    assert found.clip == {(64, 64): 2} and found.guide == {} and found.totals == (2, 0)
    assert "trunk" not in vars(tiny_backbone)


def test_views_count_each(tiny_backbone):
    one = Recipe.named("sclip").but(WINDOWS)
    views = counted(tiny_backbone, one.but(image_engineering=True))
    assert views.clip == {(64, 64): 2 * len(Recipe.named("itaclip")["image_engineering"].use)}


def test_a_guide_counts_apart(tiny_backbone, guided):
    recipe = Recipe.named("proxyclip").but({**WINDOWS, "windows.pad_to": 16})
    found = counted(tiny_backbone, recipe)
    assert found.clip == {(64, 64): 2} and found.guide == {(64, 64): 2}


def test_counting_ends_with_an_error_too(tiny_backbone):
    segmenter = Segmenter(tiny_backbone, Recipe.named("sclip").but(WINDOWS))
    text = random_text(segmenter, 4)
    text.features[:] = torch.nan
    plain = tiny_backbone.trunk
    segmenter.finish = lambda *_: (_ for _ in ()).throw(ArithmeticError)
    with pytest.raises(ArithmeticError):
        counted_forwards(segmenter, IMAGE, text)
    assert tiny_backbone.trunk == plain and "trunk" not in vars(tiny_backbone)
