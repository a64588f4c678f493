"""Scores to labels: parity with the released post-processing, thresholds, synonyms, closing."""

import numpy as np
import pytest
import torch
from conftest import relative_error, vectors
from scipy import ndimage

from ovsslib.errors import RecipeError
from ovsslib.recipe import Recipe
from ovsslib.segmenter import Segmenter
from ovsslib.stages.labels import LabelSettings, close_by_class, drop_small_classes

PUBLISHED = {
    "scale40": {"logit_scale": 40.0},
    "scale50_thd0.3": {"logit_scale": 50.0, "probability_threshold": 0.3},
    "scale65_thd0.1_area0.1": {
        "logit_scale": 65.0,
        "probability_threshold": 0.1,
        "area_threshold": 0.1,
    },
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_scores_and_labels_equal_the_released_ones(name):
    recorded = vectors("sclip_postprocess")
    settings = LabelSettings(**PUBLISHED[name])
    scaled = recorded["logits"][0] * settings.logit_scale
    scores = settings.softmax_scores(scaled, recorded["query_idx"], 5)
    kept = scores
    if settings.area_threshold:
        kept = drop_small_classes(scores, settings.area_threshold, 0)
    assert relative_error(kept, recorded[f"scores__{name}"]) < 1e-5
    labels = settings.labels(scores, 0)
    assert labels.dtype == torch.int32
    assert torch.equal(labels.long(), recorded[f"pred__{name}"][0])


def test_merging_before_the_softmax_is_another_probability_of_the_same_label():
    logits = torch.randn(4, 6, 7, generator=torch.Generator().manual_seed(0))
    classes = torch.tensor([0, 0, 1, 2])
    first, second = (
        LabelSettings(merge=merge).softmax_scores(logits, classes, 3)
        for merge in ("probability", "logit")
    )
    torch.testing.assert_close(second.sum(0), torch.ones(6, 7))
    assert (first.sum(0) < 1 - 1e-4).float().mean() > 0.9
    assert torch.equal(first.argmax(0), second.argmax(0))
    expected = torch.stack([logits[:2].amax(0), logits[2], logits[3]]).softmax(0)
    torch.testing.assert_close(second, expected)


def test_the_first_class_takes_all_synonyms_where_a_release_does_it(tiny_backbone):
    own = torch.tensor([0, 0, 0, 1, 1, 2])
    every, first = LabelSettings(), LabelSettings(synonyms="first")
    assert every.owners(own, 3).tolist() == own.tolist()
    assert first.owners(own, 3).tolist() == [0, 0, 0, 0, 1, 2]
    assert first.owners(torch.arange(3), 3).tolist() == [0, 1, 2]
    logits = torch.randn(6, 5, 4, generator=torch.Generator().manual_seed(1))
    scores = logits.softmax(dim=0)
    expected = torch.stack([scores[:4].amax(0), scores[4], scores[5]])
    torch.testing.assert_close(first.softmax_scores(logits, own, 3), expected)
    # a picture finished strip by strip obeys it too, and so does one whose scores are kept
    picture = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    words = {"dog": ["dog", "puppy"], "cat": ["cat"]}
    for threshold in (0.0, 0.21):
        made = []
        for synonyms in ("every", "first"):
            change = {"synonyms": synonyms, "probability_threshold": threshold}
            recipe = Recipe("words").but(labels=change, text={"templates": ("{}",)})
            segmenter = Segmenter(tiny_backbone, recipe)
            text = segmenter.text(words, background=["sky", "wall"])
            strips = segmenter.segment(picture, text).mask
            assert np.array_equal(strips, segmenter.segment(picture, text, keep_scores=True).mask)
            made.append(strips)
        assert not np.array_equal(*made)


def test_thresholds_send_pixels_to_the_background_and_need_one():
    scores = torch.tensor([[[0.2, 0.1]], [[0.3, 0.9]]])
    settings = LabelSettings(probability_threshold=0.5)
    assert settings.labels(scores, 0).tolist() == [[0, 1]]
    assert LabelSettings().labels(scores, None).tolist() == [[1, 1]]
    for values in ({"probability_threshold": 0.5}, {"area_threshold": 0.1}):
        with pytest.raises(RecipeError, match="background"):
            LabelSettings(**values).labels(scores, None)


def test_area_is_a_share_of_the_foreground():
    scores = torch.zeros(4, 10, 10)
    scores[0] = 0.2
    scores[1, :5] = 0.9  # 50 pixels
    scores[2, 5, :5] = 0.9  # 5 pixels: below a tenth of 55
    kept = drop_small_classes(scores, 0.1, 0)
    assert torch.equal(kept[1], scores[1]) and not kept[2].any() and torch.equal(kept[0], scores[0])
    labels = LabelSettings(area_threshold=0.1).labels(scores, 0)
    assert torch.bincount(labels.flatten().long(), minlength=4).tolist() == [50, 50, 0, 0]


def test_closing_by_label_is_grey_closing():
    labels = np.random.default_rng(0).integers(0, 5, (20, 30)).astype(np.int32)
    closed = LabelSettings(closing=3).close(labels)
    assert np.array_equal(closed, ndimage.grey_closing(labels, (3, 3), mode="nearest"))
    assert (closed >= labels).all() and (closed > labels).any()
    assert LabelSettings().close(labels) is labels


def test_closing_by_class_fills_gaps_whatever_the_numbers():
    for big, small in ((3, 1), (1, 3)):
        labels = np.full((12, 12), big, dtype=np.int32)
        labels[5, 5] = small  # a speck
        labels[:, 9:] = small  # a region
        closed = close_by_class(labels, 3)
        assert closed[5, 5] == big
        assert (closed[:, 10:] == small).all()
        assert (
            LabelSettings(closing=3, closing_by="class").close(labels).tolist() == closed.tolist()
        )


@pytest.mark.parametrize(
    "values",
    [
        {"logit_scale": 0.0},
        {"probability_threshold": 1.0},
        {"area_threshold": -0.1},
        {"closing": 2},
        {"closing": -1},
    ],
)
def test_bad_values_are_refused(values):
    with pytest.raises(RecipeError, match="labels"):
        LabelSettings(**values)
