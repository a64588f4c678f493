"""Honest answers: margins, uncertain words, and notices that come when they should and not otherwise."""

import warnings

import numpy as np
import pytest
from skimage import data as pictures

from ovsslib import load_backbone, open_dataset
from ovsslib.errors import DataError, ImageError
from ovsslib.images.drawings import distance_from_scenes
from ovsslib.images.segmentation import Segmentation
from ovsslib.recipe import Recipe
from ovsslib.segmenter import Segmenter, notices

MASK = np.array([[0, 0, 1, 1]])
MARGIN = np.array([[0.01, 0.5, 0.02, 0.03]], dtype=np.float32)


def test_uncertain_is_the_share_of_near_ties_per_word():
    answer = Segmentation(MASK, ["cat", "dog", "cow"], margin=MARGIN, confidence=MARGIN)
    assert answer.uncertain.to_dict() == {"cat": 50, "dog": 100, "(picture)": 75}
    assert answer.uncertain_below(0.02)["(picture)"] == 25
    rows = answer.table().set_index("name")
    assert rows.loc["cat", "margin"] == pytest.approx(0.255) == rows.loc["cat", "score"]
    with pytest.raises(DataError, match="no margins"):
        _ = Segmentation(MASK, ["cat", "dog"]).uncertain
    with pytest.raises(ImageError, match="margin must be"):
        Segmentation(MASK, ["cat", "dog"], margin=MARGIN.T)


def test_a_call_knows_score_and_margin(tiny_backbone):
    recipe = Recipe.named("sclip").but({"windows.short_side": 64, "text.prompts": "single"})
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    answer = Segmenter(tiny_backbone, recipe)(image, ["cat", "dog"], keep_scores=True)
    best = np.sort(answer.scores, axis=0)
    np.testing.assert_allclose(answer.margin, best[-1] - best[-2], atol=1e-6)
    np.testing.assert_allclose(answer.confidence, best[-1], atol=1e-6)


def test_a_near_tie_is_said_and_a_clear_answer_is_not():
    with pytest.warns(UserWarning, match="75 % of the picture.*guesses"):
        notices.about_answer(Segmentation(MASK, ["cat", "dog"], margin=MARGIN))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        notices.about_answer(Segmentation(MASK, ["cat", "dog"], margin=MARGIN + 0.3))


def test_photographs_are_noticed_and_scenes_are_not(tiny_backbone):
    backbone = load_backbone("sceneclip")
    for picture in (pictures.astronaut(), pictures.rocket()):
        with pytest.warns(UserWarning, match="looks like none.*ovss models get"):
            notices.about_picture(backbone, picture)
        assert distance_from_scenes(tiny_backbone, picture) is None
    scenes = open_dataset("scenes")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for index in (0, 57, 311):
            notices.about_picture(backbone, scenes[index][0])
