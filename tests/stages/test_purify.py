"""FreeCP against the recorded outputs of its official code, and its limits."""

import numpy as np
import pytest
import torch
from conftest import relative_error, vectors

from ovsslib.errors import RecipeError
from ovsslib.recipe import Recipe
from ovsslib.segmenter import Segmenter, window_logits_of
from ovsslib.segmenter.encoding import Words
from ovsslib.stages.affinity import box_mask, component_boxes, mean_attention, transition_matrix
from ovsslib.stages.contexts import ImageContext
from ovsslib.stages.plain_scores import PlainScoresSettings
from ovsslib.stages.purify import (
    PurifySettings,
    ambiguous_groups,
    redundancy,
    refine_maps,
    resolve_ambiguous,
    soft_iou,
)
from ovsslib.text.features import TextFeatures
from ovsslib.text.vocabulary import Vocabulary

RECORDED = vectors("freecp")
KEYS = sorted({key.split("__", 1)[1] for key in RECORDED})
TOLERANCE = 1e-4
ATTENTION = {
    "clearclip": {"terms": "qq", "residual": False, "feed_forward": False},
    "sclip": {"terms": "qq+kk", "residual": False, "feed_forward": True},
    "maskclip": {"terms": "value", "residual": False, "feed_forward": True},
}


def of(name: str, key: str) -> torch.Tensor:
    return RECORDED[f"{name}__{key}"]


def settings_of(key: str) -> dict:
    """Base, background rows and thresholds that a key names."""
    base, background, low, high = key.split("__")[0].split("_")
    return {
        "base": base,
        "background": int(background[2:]),
        "redundancy": float(low[2:]),
        "ambiguity": float(high[2:]),
    }


def picture_of(key: str, tiny_inputs) -> torch.Tensor:
    """64x128: a picture beside its mirror image; 160x112: one above its mirror image."""
    if key.endswith("64x128"):
        one = tiny_inputs["image_64x64"]
        return torch.cat([one, one.flip(-1)], dim=-1)
    one = tiny_inputs["image_80x112"]
    return torch.cat([one, one.flip(-1)], dim=-2)


def recipe_of(key: str) -> Recipe:
    given = settings_of(key)
    return Recipe("freecp").but(
        {
            "windows.crop": 0,
            "attention": ATTENTION[given["base"]],
            "purify": {
                "redundancy": given["redundancy"],
                "ambiguity": given["ambiguity"],
                "background_rows": given["background"],
            },
            "plain_scores": True,
        }
    )


@pytest.mark.parametrize("key", KEYS)
def test_each_step_agrees_with_the_official_code(key, tiny_backbone, tiny_inputs):
    given = settings_of(key)
    first = given["background"]
    p = of("probabilities", key)
    trunk = tiny_backbone.trunk(picture_of(key, tiny_inputs), range(11))
    attention = mean_attention([trunk.taps[i] for i in range(11)], tiny_backbone.scale)[0]
    assert relative_error(attention, of("attention", key)) < TOLERANCE
    spread = ((p - p.min()) / (p.max() - p.min()))[first:]
    refined = refine_maps(spread, transition_matrix(of("attention", key)), 0.4)
    assert relative_error(refined, of("refined", key)[first:]) < TOLERANCE
    measure = redundancy(p[first:], refined)
    assert relative_error(measure, of("redundancy", key)) < TOLERANCE
    kept = torch.nonzero(measure > given["redundancy"])[:, 0]
    assert kept.tolist() == of("after_redundancy", key).tolist()
    assert relative_error(soft_iou(refined[kept]), of("soft_iou", key)) < TOLERANCE


@pytest.mark.parametrize("key", KEYS)
def test_scores_and_labels_agree_with_the_official_code(key, tiny_backbone, tiny_inputs):
    pixels, text = picture_of(key, tiny_inputs), of("text", key)
    first = settings_of(key)["background"]
    segmenter = Segmenter(tiny_backbone, recipe_of(key))
    query_class = torch.cat([torch.zeros(first), torch.arange(first > 0, 12)])[:11].long()
    words = Words(torch.cat([text, of("described", key)[first:]]), 11, query_class)
    scores = window_logits_of([segmenter], pixels[0], [words])[0].full()
    assert relative_error(scores[None, :, ::4, ::4], of("scores", key)) < TOLERANCE
    assert set(torch.nonzero(scores.flatten(1).amax(1))[:, 0].tolist()) == {
        first + index for index in of("kept", key).tolist()
    }
    names = [f"word {i}" for i in range(int(query_class.max()) + 1)]
    vocabulary = Vocabulary.from_words(names)
    if first:
        vocabulary = Vocabulary.from_words(names[1:]).with_background(["a", "b"])
    image = np.zeros((*pixels.shape[-2:], 3), np.uint8)
    context = ImageContext(
        tiny_backbone, image, pixels, TextFeatures(text, query_class, vocabulary), segmenter.recipe
    )
    labels = PlainScoresSettings().class_scores(scores, context).argmax(0)
    # pixels between two equal maps may fall to either side
    assert int((labels != of("labels", key)).sum()) <= 3


@pytest.mark.parametrize("key", [key for key in KEYS if "nb0" in key])
def test_logits_need_no_more_than_the_rows_of_the_words(key, tiny_backbone, tiny_inputs):
    """Without rows for the votes the words' own rows vote; the maps before the votes are the same."""
    segmenter = Segmenter(tiny_backbone, recipe_of(key))
    maps = segmenter.logits(picture_of(key, tiny_inputs), of("text", key))[0]
    kept = set(torch.nonzero(maps.flatten(1).amax(1))[:, 0].tolist())
    assert kept and kept <= set(of("after_redundancy", key).tolist())


def test_boxes_leave_out_the_last_row_and_column_and_holes_have_their_own():
    ring = np.zeros((7, 8))
    ring[1:6, 1:6] = 1
    ring[3, 3] = 0
    ring[6, 7] = 0.9
    assert component_boxes(ring, 0.4) == [(1, 6, 1, 6), (6, 6, 7, 7)]
    assert component_boxes(ring, 0.4, holes=True) == [(1, 6, 1, 6), (6, 6, 7, 7), (2, 5, 2, 5)]
    assert box_mask(ring, 0.4).sum() == 25
    assert not box_mask(np.zeros((4, 4)), 0.4).any()


def test_a_group_is_decided_by_the_votes_of_its_boxes_and_an_empty_box_keeps_it_whole():
    maps = torch.zeros(4, 6, 6)
    maps[0:2, 1:3, 1:3] = 1
    maps[0:2, 1:3, 4:5] = 1
    maps[2:4, 5, 5] = 1
    groups = ambiguous_groups(soft_iou(maps), 0.7)
    assert groups == [[0, 1], [2, 3]]
    asked = []

    def vote(box, group):
        asked.append((box, group))
        return group[len(asked) - 1]

    assert resolve_ambiguous(maps, groups, 0.4, vote) == [0, 1, 2, 3]
    assert asked == [((1, 3, 1, 3), [0, 1]), ((1, 3, 4, 5), [0, 1])]


def test_transition_is_symmetric_and_rows_nearly_sum_to_one():
    matrix = transition_matrix(torch.rand(9, 9, generator=torch.Generator().manual_seed(0)) + 0.1)
    torch.testing.assert_close(matrix, matrix.T)
    assert (matrix.sum(1) - 1).abs().max() < 0.05


def test_synonyms_count_as_their_mean_and_words_segment_with_and_without_background(tiny_backbone):
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    recipe = Recipe("freecp").but(
        {"windows.short_side": 64, "windows.crop": 64, "windows.stride": 32,
         "text.templates": ("a {}.",), "purify.redundancy": 0.05, "plain_scores": True}
    )  # fmt: skip
    segmenter = Segmenter(tiny_backbone, recipe)
    once = segmenter(image, {"cat": [], "dog": [], "sky": []}, keep_scores=True)
    assert once.scores.min() >= 0 and once.scores.max() <= 1 + 1e-5
    twice = {"cat": ["kitten"], "dog": ["puppy"], "sky": []}
    text = segmenter.text(twice)
    merged = torch.nn.functional.normalize(
        torch.stack([text.features[:2].mean(0), text.features[2:4].mean(0), text.features[4]]),
        dim=-1,
    )
    pixels = segmenter.prepare(image)
    expected = segmenter.logits(pixels[None], merged)[0]
    words = segmenter.words(text)
    both = window_logits_of([segmenter], pixels, [words])[0].full()
    assert relative_error(both[[0, 2, 4]], expected) < TOLERANCE
    assert torch.equal(both[0], both[1])
    grounded = segmenter(image, ["cat", "dog"], background=["wall", "floor"], keep_scores=True)
    np.testing.assert_allclose(grounded.scores[0], 1 - grounded.scores[1:].max(0), atol=1e-6)


def test_votes_may_read_definitions(tiny_backbone):
    settings = PurifySettings(votes="definitions")
    text_settings = Recipe("x").but({"text.templates": ("a {}.",)})["text"]
    segmenter = Segmenter(tiny_backbone, Recipe("x").but(text=text_settings))
    text = segmenter.text(["dog", "unheard-of thing"], background=["wall"])
    rows = settings.group_features(tiny_backbone, text, text_settings)
    plain = PurifySettings().group_features(tiny_backbone, text, text_settings)
    assert rows.shape == plain.shape == (2, 24)
    assert (rows[0] - plain[0]).abs().max() > 1e-3
    torch.testing.assert_close(rows[1], plain[1])


@pytest.mark.parametrize(
    "values",
    [
        {"redundancy": 1.5},
        {"ambiguity": 0.0},
        {"box_threshold": 2.0},
        {"logit_scale": 0.0},
        {"background_rows": -1},
    ],
)
def test_bad_values_are_refused(values):
    with pytest.raises(RecipeError, match="purify"):
        PurifySettings(**values)


def test_all_rows_as_background_and_whole_maps_are_refused(tiny_backbone, tiny_inputs):
    segmenter = Segmenter(tiny_backbone, Recipe("x").but({"purify.background_rows": 6}))
    with pytest.raises(RecipeError, match="all 6 rows would be background"):
        segmenter.logits(tiny_inputs["image_64x64"], tiny_inputs["text"])
    with pytest.raises(RecipeError, match="one map of the whole picture"):
        Recipe("x").but(purify=True, stitch=True)
    with pytest.raises(RecipeError, match="rows of its own"):
        Recipe("x").but(purify=True, hierarchy=True)
