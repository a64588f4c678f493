"""Temperature: what it does to probabilities, when it can change a mask, and how one is fitted."""

import numpy as np
import pytest
import torch

from ovsslib.errors import RecipeError
from ovsslib.recipe import Recipe
from ovsslib.segmenter import Segmenter
from ovsslib.stages.calibration import CalibrationSettings, fit_temperature, normalised_entropy

LOGITS = 3 * torch.randn(4, 20, 30, generator=torch.Generator().manual_seed(0))


def test_entropy_is_normalised():
    assert normalised_entropy(torch.full((5, 2, 2), 0.2)).sub(1).abs().max() < 1e-6
    sure = torch.zeros(5, 2, 2)
    sure[3] = 1.0
    assert normalised_entropy(sure).abs().max() < 1e-6
    assert torch.isfinite(normalised_entropy(torch.ones(1, 2, 2))).all()


def test_fixed_temperature_divides_before_or_after():
    before = CalibrationSettings(mode="fixed", temperature=2.0)
    torch.testing.assert_close(before.on_scaled_logits(LOGITS, None), LOGITS / 2)
    scores = LOGITS.softmax(0)
    assert before.on_scores(scores, LOGITS, None) is scores
    after = CalibrationSettings(mode="fixed", temperature=2.0, when="after")
    assert after.on_scaled_logits(LOGITS, None) is LOGITS
    torch.testing.assert_close(after.on_scores(scores, LOGITS, None), (LOGITS / 2).softmax(0))


def test_undecided_pixels_are_sharpened_and_sure_ones_left():
    settings = CalibrationSettings(hot=1.0, cold=0.5, lower=0.4, upper=0.8)
    entropy = normalised_entropy(LOGITS.softmax(0)).flatten()
    gain = (settings.on_scaled_logits(LOGITS, None) / LOGITS)[0].flatten()
    order = entropy.argsort()
    assert (gain[order[:230]] - 1).abs().max() < 1e-5
    assert (gain[order[490:]] - 2).abs().max() < 1e-5
    assert (gain[order].diff() > -1e-4).all()
    after = CalibrationSettings(lower=0.4, upper=0.8, when="after")
    sharp = after.on_scores(LOGITS.softmax(0), LOGITS, None)
    torch.testing.assert_close(sharp, settings.on_scaled_logits(LOGITS, None).softmax(0))


@pytest.fixture(scope="module")
def segment(tiny_backbone):
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    words = ["cat", "dog", "car", "bus", "sky", "grass"]

    def run(recipe):
        return Segmenter(tiny_backbone, recipe)(image, words, background=["wall", "floor"]).mask

    return run


BASE = {"windows.short_side": 64, "windows.crop": 0, "labels.logit_scale": 10.0}
SHARP = {"hot": 1.0, "cold": 0.1, "lower": 0.1, "upper": 0.5}
INERT = {
    "alone": {},
    "alone, after": {"calibration.when": "after"},
    "fixed": {"calibration.mode": "fixed", "calibration.temperature": 0.2},
    "hard hierarchy": {"hierarchy": {"mode": "hard", "count": 3}},
    "soft hierarchy, after": {"hierarchy": {"count": 3}, "calibration.when": "after"},
    "area": {"labels.area_threshold": 0.1},
    "temperature 1": {
        "calibration.hot": 1.0,
        "calibration.cold": 1.0,
        "labels.probability_threshold": 0.3,
    },
}
ACTS = {
    "probability threshold": {"labels.probability_threshold": 0.2},
    "threshold, after": {"labels.probability_threshold": 0.2, "calibration.when": "after"},
    "soft hierarchy": {"hierarchy": {"count": 3}},
    "densecrf": {
        "densecrf": {"appearance_weight": 0.3, "smoothness_weight": 0.3},
        "labels.logit_scale": 100.0,
    },
}


@pytest.mark.parametrize("name", [*INERT, *ACTS])
def test_masks_change_exactly_where_the_recipe_does_not_say_inert(name, segment):
    recipe = Recipe("c").but(BASE).but(calibration=SHARP).but((INERT | ACTS)[name])
    changed = (segment(recipe) != segment(recipe.but(calibration=False))).any()
    assert ("calibration" in recipe.inert()) == (name in INERT)
    assert changed == (name in ACTS)


@pytest.mark.parametrize("truth", [0.3, 1.0, 4.0])
def test_a_known_temperature_is_found(truth):
    generator = torch.Generator().manual_seed(5)
    logits = 2 * torch.randn(6, 20000, generator=generator)
    labels = torch.multinomial(logits.softmax(0).T, 1, generator=generator)[:, 0]
    assert fit_temperature(logits * truth, labels) == pytest.approx(truth, rel=0.05)


def test_bad_values_are_refused():
    for values in (
        {"cold": 0.0},
        {"cold": 2.0, "hot": 1.0},
        {"lower": 0.9, "upper": 0.5},
        {"upper": 1.5},
        {"temperature": 0.0},
    ):
        with pytest.raises(RecipeError, match="calibration"):
            CalibrationSettings(**values)
    with pytest.raises(RecipeError, match="do not fit"):
        fit_temperature(torch.zeros(3, 4), torch.zeros(5, dtype=torch.long))
