"""What the figures of methods show is what the recipe computes."""

import numpy as np
import pytest
import torch

from ovsslib.book.figures.inside import look_inside
from ovsslib.errors import RecipeError
from ovsslib.recipe import Recipe
from ovsslib.segmenter import Segmenter, window_logits_of

WORDS = ["sky", "person", "grass"]
SMALL = {"windows.short_side": 64, "windows.crop": 64, "windows.stride": 32}
STAGES = {"upsampling.method": "bilinear", "feature_rcs": True, "feedback": True}


@pytest.fixture()
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)


def test_steps_and_labels_are_those_of_the_segmenter(tiny_backbone, picture, tmp_path, monkeypatch):
    monkeypatch.setenv("OVSSLIB_CACHE", str(tmp_path))
    segmenter = Segmenter(tiny_backbone, Recipe("tiny").but(SMALL | STAGES))
    look = look_inside(segmenter, picture, WORDS, window=1)
    assert {name: tuple(one.shape) for name, one in look.features.items()} == {
        "patches": (24, 4, 4), "upsampling": (24, 8, 8), "feature_rcs": (24, 8, 8),
    }  # fmt: skip
    assert np.array_equal(look.picture, picture[:, 32:96])
    text = segmenter.text(WORDS)
    pixels = segmenter.prepare(picture)[:, :, 32:96]
    logits = window_logits_of([segmenter], pixels, [segmenter.words(text)])[0]._cells
    assert np.array_equal(look.after, logits.argmax(0).numpy())
    plain = segmenter.recipe.but({"feedback": False, "feature_rcs": False, "upsampling": False})
    whole = Segmenter(tiny_backbone, plain).features(pixels[None])[0].permute(2, 0, 1)
    assert torch.allclose(look.features["patches"], whole, atol=1e-5)


def test_anchors_are_confident_patches_with_their_word(
    tiny_backbone, picture, tmp_path, monkeypatch
):
    monkeypatch.setenv("OVSSLIB_CACHE", str(tmp_path))
    segmenter = Segmenter(tiny_backbone, Recipe("tiny").but(SMALL | {"feedback.quantile": 0.0}))
    look = look_inside(segmenter, picture, WORDS)
    assert np.array_equal(look.anchors, look.before)  # quantile 0: every patch, same grid
    fewer = Segmenter(tiny_backbone, Recipe("tiny").but(SMALL | {"feedback": True}))
    chosen = look_inside(fewer, picture, WORDS).anchors
    kept = chosen != look.ignore
    assert 0 < kept.sum() < kept.size
    assert np.array_equal(chosen[kept], look.before[kept])
    none = Segmenter(tiny_backbone, Recipe("tiny").but(SMALL))
    assert look_inside(none, picture, WORDS).anchors is None


def test_windows_that_are_not_there_are_refused(tiny_backbone, picture):
    segmenter = Segmenter(tiny_backbone, Recipe("tiny").but(SMALL))
    with pytest.raises(RecipeError, match="has 2 windows"):
        look_inside(segmenter, picture, WORDS, window=2)
