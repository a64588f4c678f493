"""Class scores without a softmax."""

import numpy as np
import torch

from ovsslib.recipe import Recipe
from ovsslib.segmenter import Segmenter, window_logits_of
from ovsslib.stages.contexts import ImageContext
from ovsslib.stages.plain_scores import PlainScoresSettings
from ovsslib.text.features import TextFeatures
from ovsslib.text.vocabulary import Vocabulary

LOGITS = torch.tensor([[0.1, 0.9], [0.6, -0.2], [0.3, 0.4]])[:, None]


def scores(settings, vocabulary):
    index = torch.tensor(vocabulary.query_class)
    text = TextFeatures(torch.zeros(3, 4), index, vocabulary)
    image = np.zeros((1, 2, 3), np.uint8)
    context = ImageContext(None, image, torch.zeros(1, 3, 1, 2), text, Recipe("x"))
    return settings.class_scores(LOGITS, context)[:, 0]


def test_the_best_query_of_a_class_counts_and_values_are_clipped():
    words = Vocabulary.from_words({"cat": ["kitten"], "sky": []})
    expected = torch.tensor([[0.6, 0.9], [0.3, 0.4]])
    torch.testing.assert_close(scores(PlainScoresSettings(), words), expected)
    words = Vocabulary.from_words(["cat", "dog", "sky"])
    assert scores(PlainScoresSettings(), words)[1].tolist() == [np.float32(0.6), 0]


def test_the_background_is_what_the_others_leave():
    words = Vocabulary.from_words(["cat", "dog"]).with_background(["wall"])
    torch.testing.assert_close(
        scores(PlainScoresSettings(), words), torch.tensor([[0.4, 0.6], [0.6, 0], [0.3, 0.4]])
    )
    own = scores(PlainScoresSettings(background="own"), words)
    torch.testing.assert_close(own[0], torch.tensor([0.1, 0.9]))


def test_without_the_complement_the_order_is_a_softmaxs():
    recipe = Recipe("x").but({"plain_scores.background": "own"})
    assert "plain_scores" in recipe.inert()
    assert "plain_scores" not in recipe.but(densecrf=True).inert()
    assert "plain_scores" not in Recipe("x").but(plain_scores=True).inert()
    assert (
        "labels.merge" in Recipe("x").but({"plain_scores": True, "labels.merge": "logit"}).inert()
    )


def test_strips_give_what_the_whole_gives(tiny_backbone, monkeypatch):
    """Neither the rule without softmax nor a vote needs all scores at once."""
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    recipe = Recipe("x").but(
        {"windows.short_side": 64, "text.templates": ("a {}.",), "plain_scores": True, "mask_vote": True,
         "labels.closing": 3}
    )  # fmt: skip
    segmenter = Segmenter(tiny_backbone, recipe)
    assert segmenter.is_local()
    words = {"cat": ["kitten"], "dog": [], "sky": []}
    whole = segmenter(image, words, background=["wall"], keep_scores=True).mask
    monkeypatch.setattr("ovsslib.segmenter.finishing.STRIP", 700)
    np.testing.assert_array_equal(segmenter(image, words, background=["wall"]).mask, whole)
    text = segmenter.text(words, ["wall"])
    pixels = segmenter.prepare(image)
    stitched = window_logits_of([segmenter], pixels, [segmenter.words(text)], (40, 60))[0]
    strips, held = (
        segmenter.finish(stitched, image, pixels, text, keep, confidence=True)
        for keep in (False, True)
    )
    np.testing.assert_array_equal(strips.labels, held.labels)
    np.testing.assert_allclose(strips.confidence, held.confidence, atol=1e-6)
    np.testing.assert_allclose(strips.margin, held.margin, atol=1e-6)
