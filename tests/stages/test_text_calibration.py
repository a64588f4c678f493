"""PTC against the recorded outputs of the withdrawn code: sums, counts, text rows; limits."""

import pytest
import torch
from conftest import relative_error, vectors

from ovsslib.errors import RecipeError
from ovsslib.recipe import Recipe
from ovsslib.segmenter import Segmenter, window_logits_of
from ovsslib.segmenter.encoding import Words
from ovsslib.segmenter.last_block import cosine_logits
from ovsslib.stages.contexts import PictureTextContext
from ovsslib.stages.text_calibration import (
    TextCalibrationSettings,
    calibrate,
    class_maximum,
    region_evidence,
)

RECORDED = vectors("ptc")
TOLERANCE = 1e-4
NACLIP = {"terms": "kk", "gaussian_std": 5.0, "residual": False, "feed_forward": False}
VARIANTS = {
    "crop64_16": {"crop": 64, "stride": 16, "min_seeds": 2, "seed_ratio": 0.5, "mu": 0.3},
    "crop48_16_border1": {
        "crop": 48, "stride": 16, "min_seeds": 1, "seed_ratio": 0.3, "mu": 0.35, "border": 1,
    },
    "whole_divisor56": {"crop": 0, "min_seeds": 3, "seed_ratio": 0.25, "mu": 0.3, "pad_to": 56},
    "crop64_16_skip": {
        "crop": 64, "stride": 16, "min_seeds": 2, "seed_ratio": 0.1, "mu": 0.15, "skip_background": True,
    },
    "whole_border_auto": {"crop": 0, "min_seeds": 1, "seed_ratio": 0.1, "mu": 0.1, "border": None},
}  # fmt: skip
CLASSES = {"plain": [0, 1, 2, 3, 4, 5], "synonyms": [0, 1, 1, 2, 3, 3]}


class Spy:
    """Takes the place of `calibrate` and keeps what it was given."""

    def __init__(self):
        self.evidence = None

    def __call__(self, text, query_class, evidence, *rest):
        self.evidence = evidence
        return calibrate(text, query_class, evidence, *rest)


@pytest.mark.parametrize("kind", sorted(CLASSES))
@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_rows_sums_and_counts_agree(variant, kind, tiny_backbone, tiny_inputs, monkeypatch):
    spy = Spy()
    monkeypatch.setattr("ovsslib.stages.text_calibration.calibrate", spy)
    segmenter = Segmenter(tiny_backbone, Recipe("ptc").but(attention=NACLIP))
    pixels, index = tiny_inputs["image_80x112"][0], torch.tensor(CLASSES[kind])
    grid = segmenter.windows.boxes(80, 112)
    features = segmenter.map_of(grid.crops(pixels))
    context = PictureTextContext(tiny_backbone, pixels, grid, features, index, segmenter.map_of)
    rows = TextCalibrationSettings(**VARIANTS[variant]).on_picture_text(
        tiny_inputs["text"], context
    )
    key = f"{variant}__{kind}"
    assert relative_error(rows, RECORDED[f"text__{key}"]) < TOLERANCE
    assert relative_error(spy.evidence.sums, RECORDED[f"sums__{key}"]) < TOLERANCE
    assert torch.equal(spy.evidence.regions, RECORDED[f"regions__{key}"])
    assert torch.equal(spy.evidence.seeds, RECORDED[f"seeds__{key}"].long())


def test_logits_are_those_of_the_recorded_rows(tiny_backbone, tiny_inputs):
    """The whole flow: the picture is segmented with the calibrated rows, its features are the base's."""
    pixels, text = tiny_inputs["image_80x112"], tiny_inputs["text"]
    base = Recipe("ptc").but({"attention": NACLIP, "windows": {"crop": 64, "stride": 16}})
    recipe = base.but(text_calibration=VARIANTS["crop64_16"])
    ours = Segmenter(tiny_backbone, recipe).logits(pixels, text)
    theirs = Segmenter(tiny_backbone, base).logits(pixels, RECORDED["text__crop64_16__plain"])
    assert relative_error(ours, theirs) < TOLERANCE
    words = Words(text, 6, torch.tensor(CLASSES["synonyms"]))
    merged = window_logits_of([Segmenter(tiny_backbone, recipe)], pixels[0], [words])[0].full()
    theirs = Segmenter(tiny_backbone, base).logits(pixels, RECORDED["text__crop64_16__synonyms"])
    assert relative_error(merged[None], theirs) < TOLERANCE


def test_features_of_equal_windows_are_used_again(tiny_backbone, tiny_inputs, monkeypatch):
    """The inference windows are padded alike, so no further pass is made."""
    recipe = Recipe("ptc").but(
        {
            "attention": NACLIP,
            "windows": {"crop": 64, "stride": 16},
            "text_calibration": VARIANTS["crop64_16"],
        }
    )
    segmenter = Segmenter(tiny_backbone, recipe)
    calls = []
    monkeypatch.setattr(segmenter, "map_of", lambda crops: calls.append(crops))
    segmenter.logits(tiny_inputs["image_80x112"], tiny_inputs["text"])
    assert not calls


def test_least_seeds_are_floor_and_test_at_once():
    features = torch.eye(4)[torch.tensor([0, 0, 0, 1, 2, 3])]
    scores = torch.tensor([[9.0, 0], [8, 0], [7, 0], [0, 5], [6, 0], [0, 1]])
    found = region_evidence(features, scores, least=2, share=0.1)
    assert found.seeds.tolist() == [2, 2] and found.regions.tolist() == [1, 1]
    torch.testing.assert_close(found.sums[0], torch.tensor([1.0, 0, 0, 0]))
    torch.testing.assert_close(found.sums[1], torch.tensor([0, 5.0, 0, 1]) / 6)
    found = region_evidence(features, scores, least=3, share=0.1)
    assert found.seeds.tolist() == [3, 0] and not found.sums[1].any()
    found = region_evidence(features, scores, least=2, share=0.1, skip=0)
    assert found.seeds.tolist() == [0, 2]
    one = region_evidence(features, scores[:, :1] - 7, least=1, share=1.0)
    torch.testing.assert_close(one.sums[0], torch.tensor([1.0, 0, 0, 0]))


def test_best_query_counts_for_its_class():
    scores = torch.tensor([[1.0, 3, 2], [5, 0, 4]])
    assert class_maximum(scores, torch.tensor([0, 1, 1]), 2).tolist() == [[1, 3], [5, 4]]


def test_many_regions_or_classes_ask_for_two_regions(tiny_backbone, tiny_inputs):
    pixels, text = tiny_inputs["image_80x112"], tiny_inputs["text"]
    few = {**VARIANTS["crop48_16_border1"], "few_regions": 1}
    base = Recipe("ptc").but({"attention": NACLIP, "windows": {"crop": 64, "stride": 16}})
    plain = Segmenter(tiny_backbone, base).logits(pixels, text)
    moved = Segmenter(tiny_backbone, base.but(text_calibration=few)).logits(pixels, text)
    regions = RECORDED["regions__crop48_16_border1__plain"]
    still = (moved - plain).abs().amax(dim=(0, 2, 3)) < 1e-6
    assert still.tolist() == (regions < 2).tolist() and 0 < int(still.sum()) < 6


def test_class_rows_of_a_picture_leave_other_pictures_alone(tiny_backbone, tiny_inputs):
    recipe = Recipe("ptc").but(
        {"attention": NACLIP, "windows.crop": 0, "text_calibration": VARIANTS["whole_border_auto"]}
    )
    segmenter = Segmenter(tiny_backbone, recipe)
    picture, text = tiny_inputs["image_64x64"], tiny_inputs["text"]
    alone = segmenter.logits(picture, text)
    both = segmenter.logits(torch.cat([picture.flip(-1), picture]), text)
    assert torch.equal(alone[0], both[1])
    context_rows = RECORDED["text__whole_border_auto__plain"]
    assert cosine_logits(torch.ones(1, 24, 1, 1), context_rows).shape == (1, 6, 1, 1)


@pytest.mark.parametrize(
    "values",
    [{"mu": 1.5}, {"seed_ratio": -0.1}, {"min_seeds": 0}, {"stride": 0}, {"stride": 300}, {"border": -1},
     {"logit_scale": 0.0}],
)  # fmt: skip
def test_bad_values_are_refused(values):
    with pytest.raises(RecipeError, match="text_calibration"):
        TextCalibrationSettings(**values)


def test_a_recipe_that_needs_words_first_is_refused_and_a_share_of_zero_is_inert():
    with pytest.raises(RecipeError, match="needs the words before"):
        Recipe("x").but(text_calibration=True, sfr=True)
    assert "text_calibration" in Recipe("x").but({"text_calibration.mu": 0.0}).inert()
