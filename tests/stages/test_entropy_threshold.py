"""CDAM's threshold from entropies against values recorded from its official code."""

import math

import numpy as np
import pytest
import torch
from conftest import vectors

from ovsslib.errors import RecipeError
from ovsslib.recipe import Recipe
from ovsslib.segmenter import Segmenter, window_logits_of
from ovsslib.stages.class_distribution import ClassDistributionSettings
from ovsslib.stages.entropy_threshold import EntropyThresholdSettings, entropy_threshold
from ovsslib.text.features import TextFeatures
from ovsslib.text.vocabulary import Vocabulary

CDAM = vectors("cdam")


@pytest.mark.parametrize("size", ["64x128", "160x112"])
def test_threshold_agrees_with_the_official_code(size):
    ours = entropy_threshold(CDAM[f"logits_low__{size}"])
    assert ours == pytest.approx(float(CDAM[f"probability_threshold__{size}"]), rel=1e-4)


def test_even_and_decided_patches():
    cosines = torch.zeros(1, 4, 1, 2)
    assert entropy_threshold(cosines) == pytest.approx(1.25 / 2)
    cosines[0, 0, 0, 1] = 100.0  # one patch decided beyond what float32 can tell from 1
    assert entropy_threshold(cosines) == pytest.approx(1.25)
    cosines[0, 0] = 100.0
    assert entropy_threshold(cosines) == math.inf
    assert entropy_threshold(torch.zeros(1, 4, 1, 1).half()) == pytest.approx(1.25 / 2)


def answer_of(changes, tiny_backbone, tiny_inputs, monkeypatch):
    """Labels of the recorded picture of two windows, with the recorded rows instead of words."""
    rows, query_class = CDAM["text20_close"], CDAM["query_class"]
    monkeypatch.setattr(ClassDistributionSettings, "extra_texts", lambda *_: rows[6:])
    recipe = Recipe.named("cdam", "voc21").but({"windows": {"crop": 128, "stride": 32}})
    segmenter = Segmenter(tiny_backbone, recipe.but(changes))
    one = tiny_inputs["image_80x112"]
    pixels = torch.cat([one, one.flip(-1)], dim=-2)[0]
    vocabulary = Vocabulary.from_words(["cat", "dog", "sky", "car"], background=["wall"])
    text = TextFeatures(rows[:6], query_class.long(), vocabulary)
    stitched = window_logits_of([segmenter], pixels, [segmenter.words(text)])[0]
    made = segmenter.finish(stitched, np.zeros((160, 112, 3), np.uint8), pixels, text)
    return made.labels, stitched.windows()


def test_labels_of_sliding_windows_agree_with_the_official_code(
    tiny_backbone, tiny_inputs, monkeypatch
):
    labels, windows = answer_of({}, tiny_backbone, tiny_inputs, monkeypatch)
    assert len(windows) == 2
    recorded = float(CDAM["slide128_32_threshold__160x112"])
    assert entropy_threshold(windows[-1:]) == pytest.approx(recorded, rel=1e-4)
    assert (labels == CDAM["slide128_32_labels__160x112"].numpy()).mean() > 0.999


def test_all_windows_and_clipping_are_other_answers(tiny_backbone, tiny_inputs, monkeypatch):
    args = (tiny_backbone, tiny_inputs, monkeypatch)
    last, windows = answer_of({}, *args)
    every, _ = answer_of({"entropy_threshold.windows": "all"}, *args)
    assert entropy_threshold(windows) != entropy_threshold(windows[-1:])
    assert (last != every).any()
    beyond = {"entropy_threshold.factor": 50.0}
    assert not answer_of(beyond, *args)[0].any()
    clipped, _ = answer_of({**beyond, "entropy_threshold.clip": True}, *args)
    assert not clipped.any()  # no probability reaches 1 here


def test_it_takes_the_place_of_a_fixed_threshold():
    with pytest.raises(RecipeError, match="labels.probability_threshold=0.3"):
        Recipe("x").but({"entropy_threshold": True, "labels.probability_threshold": 0.3})
    with pytest.raises(RecipeError, match="scores of its own"):
        Recipe("x").but(entropy_threshold=True, plain_scores=True)


def test_words_without_a_background_are_refused(tiny_backbone):
    recipe = Recipe.named("cdam", "voc21").but({"windows.short_side": 64, "text.prompts": "single"})
    image = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(RecipeError, match="background class"):
        Segmenter(tiny_backbone, recipe)(image, ["cat", "dog"])
    assert Segmenter(tiny_backbone, recipe)(image, ["cat", "dog"], ["sky"]).mask.shape == (64, 64)


@pytest.mark.parametrize("name", ["base", "factor", "logit_scale"])
def test_bad_values_are_refused(name):
    with pytest.raises(RecipeError, match=f"entropy_threshold.{name}=0"):
        EntropyThresholdSettings(**{name: 0.0})
