"""Labels that prompt a segmenter: Trident's refinement against recorded calls, outlines of components (this project's)."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import relative_error, vectors

from ovsslib.errors import RecipeError
from ovsslib.guides.prompts import ProposedMasks
from ovsslib.recipe import Recipe
from ovsslib.segmenter import Segmenter
from ovsslib.stages import prompt_refinement, prompting
from ovsslib.stages.prompt_refinement import PromptRefinementSettings
from ovsslib.stages.prompting import (
    fitted,
    full_size,
    half_size,
    mask_prompt,
    refined_by_prompts,
    regions_of_class,
)
from ovsslib.stages.sam2_boundaries import Sam2BoundariesSettings, components, outlined

RECORDED = vectors("trident")
TOLERANCE = 1e-4
RUNS = {"a": (0.2, 20, 0.86), "b": (0.45, 40, 0.9)}


# -- Trident's refinement ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", sorted(RUNS))
@pytest.mark.parametrize("at_once", [16, 1])
def test_prompts_labels_and_scores_agree_with_the_official_code(run, at_once, monkeypatch):
    """Every call's points, boxes and mask prompt, and what becomes of the recorded answers."""
    monkeypatch.setattr(prompting, "PROMPTS_AT_ONCE", at_once)
    scores = RECORDED["refine_probabilities__60x90"]
    labels = scores.argmax(0).numpy().astype(np.int32)
    calls = sorted({k.split("_")[2] for k in RECORDED if k.startswith(f"refine_{run}_call")})
    expected = [
        {name: RECORDED[f"refine_{run}_{call}_{name}"] for name in
         ("points", "boxes", "mask_input_16th", "logits16", "iou")}
        for call in calls
    ]  # fmt: skip
    answers = iter(
        [
            (call, slice(start, start + at_once))
            for call in expected
            for start in range(0, len(call["boxes"]), at_once)
        ]
    )

    def predict(points, boxes, mask):
        call, part = next(answers)
        assert relative_error(points, call["points"][part, 0]) < TOLERANCE
        assert relative_error(boxes, call["boxes"][part]) < TOLERANCE
        assert relative_error(mask[None, ::16, ::16], call["mask_input_16th"]) < TOLERANCE
        wide = F.interpolate(call["logits16"][part], size=(256, 256), mode="bilinear")
        return wide[:, 0], call["iou"][part, 0]

    new, refined = refined_by_prompts(labels, scores, predict, *RUNS[run])
    assert next(answers, None) is None
    np.testing.assert_array_equal(new, RECORDED[f"refine_{run}_labels"][0].numpy())
    assert new.dtype == np.int32 and (new != labels).any()
    assert relative_error(refined, RECORDED[f"refine_{run}_scores"]) < TOLERANCE


def test_without_a_trusted_answer_nothing_changes():
    scores = RECORDED["refine_probabilities__60x90"]
    labels = scores.argmax(0).numpy().astype(np.int32)

    def predict(points, boxes, mask):
        return torch.ones(len(points), 256, 256), torch.zeros(len(points))

    new, same = refined_by_prompts(labels, scores, predict, 0.2, 20, 0.5)
    assert new is labels and same is scores


def test_pixels_that_no_answer_covers_keep_their_scores(tiny_backbone, monkeypatch):
    """Scores are probabilities: an answer's may be far below 1 and still counts."""
    before, answers = torch.full((2, 4, 6), 0.5), torch.zeros(2, 4, 6)
    answers[1, :, :3] = 0.3
    fake = SimpleNamespace(look=lambda image: None, answer=None, square=False)
    monkeypatch.setattr(prompt_refinement, "load_prompter", lambda *_: fake)
    monkeypatch.setattr(
        prompt_refinement, "refined_by_prompts", lambda labels, *_: (labels + 1, answers)
    )
    context = SimpleNamespace(scores=before, image=None, backbone=tiny_backbone)
    labels = np.zeros((4, 6), np.int32)
    assert (PromptRefinementSettings().on_labels(labels, context) == 1).all()
    assert torch.equal(context.scores[:, :, :3], answers[:, :, :3])
    assert torch.equal(context.scores[:, :, 3:], before[:, :, 3:])


def test_regions_have_boxes_points_and_neighbours_at_corners():
    mask = np.zeros((6, 8), bool)
    mask[0, 0] = mask[1, 1] = mask[1, 2] = True  # joined at a corner
    mask[4:6, 5:8] = True
    sureness = np.zeros((6, 8), np.float32)
    sureness[1, 2] = sureness[5, 6] = sureness[5, 7] = 0.5
    found = regions_of_class(mask, sureness, 3)
    assert found.boxes.tolist() == [[0, 0, 2, 1], [5, 4, 7, 5]]
    assert found.points.tolist() == [[2, 1], [6, 5]]  # of equals the first
    assert found.areas.tolist() == [3, 6]
    assert len(regions_of_class(mask, sureness, 4).chosen) == 1
    assert len(regions_of_class(mask, sureness, 7).chosen) == 0
    assert len(regions_of_class(np.zeros((3, 3), bool), np.zeros((3, 3)), 1).chosen) == 0


def test_frames_hints_and_sizes():
    assert fitted((30, 45)) == (683, 1024) and fitted((45, 30), 256) == (256, 171)
    assert fitted((30, 45), square=True) == (1024, 1024)
    hint = mask_prompt(torch.full((30, 45), 0.5), 0.2)
    assert hint.shape == (256, 256) and float(hint.max()) == pytest.approx(0.0025)
    assert (hint[:171] > 0).all() and not hint[171:].any()
    assert (mask_prompt(torch.full((30, 45), 0.5), 0.2, square=True) > 0).all()
    logits = torch.full((1, 256, 256), -1.0)
    logits[:, :160] = 1  # the picture of 30 x 45 ends at row 170.75 of 256
    full = full_size(logits, (30, 45))
    assert full.shape == (1, 30, 45) and (full[0, :27] > 0).all() and (full[0, 29:] < 0).all()
    labels, scores = np.arange(6, dtype=np.int32).reshape(2, 3), torch.full((6, 2, 3), 0.1)
    scores[0] = 0.4
    small, half = half_size(labels, scores, 0.3)
    assert small.shape == (1, 1) and half.shape == (6, 1, 1) and small[0, 0] == 0
    assert half_size(labels, scores, 0.5)[0][0, 0] == -1


# -- outlines of components --------------------------------------------------------------------------------------


def halves() -> np.ndarray:
    labels = np.zeros((40, 60), np.int32)
    labels[10:30, 10:30] = 2
    labels[0:5, 50:60] = 2
    labels[38, 3] = 1
    return labels


def test_components_are_the_largest_first_with_their_deepest_pixel():
    found = components(halves(), least=2, most=8)
    assert [(one.label, one.area) for one in found] == [(0, 40 * 60 - 451), (2, 400), (2, 50)]
    square = found[1]
    assert square.box == (10, 10, 29, 29) and square.mask.all()
    assert square.point in {(19, 19), (19, 20), (20, 19), (20, 20)}
    assert [one.area for one in components(halves(), least=1, most=2)] == [1949, 400]
    assert len(components(halves(), least=1, most=9)) == 4


class Answers:
    """A segmenter whose answers are given by the area of the box that asks, in pixels of the picture."""

    def __init__(self, size, answers):
        self.size, self.answers, self.asked = size, answers, []

    def __call__(self, points, boxes, mask):
        back = torch.tensor([self.size[1] / 1024, self.size[0] / 1024])
        left, top, right, bottom = (boxes[0] * back.repeat(2)).round().int().tolist()
        self.asked.append(((points[0] * back).round().int().tolist(), mask))
        answer, iou = self.answers[(right - left + 1) * (bottom - top + 1)]
        picture = torch.from_numpy(answer).float()[None, None] * 20 - 10
        return F.interpolate(picture, size=(1024, 1024), mode="nearest")[0], torch.tensor([iou])


def test_answers_that_agree_settle_the_borders():
    labels = halves()
    moved = np.zeros((40, 60), bool)
    moved[9:30, 10:32] = True  # agrees with the square of 400 pixels by 400 / 462
    far = np.zeros((40, 60), bool)
    far[0:5, 0:10] = True
    everything = np.ones((40, 60), bool)
    nothing = np.zeros((40, 60), bool)
    answers = {400: (moved, 0.9), 50: (far, 0.9), 2400: (everything, 0.9), 1: (nothing, 0.9)}
    predict = Answers((40, 60), answers)
    how = Sam2BoundariesSettings(least_area=0.0, agreement=0.8)
    out = outlined(labels, predict, how, square=True)
    expected = np.zeros(
        (40, 60), np.int32
    )  # "everything" agrees by 1949 / 2400 and is painted first
    expected[moved] = 2
    np.testing.assert_array_equal(out, expected)
    assert out.dtype == np.int32 and len(predict.asked) == 4
    strict = outlined(labels, predict, Sam2BoundariesSettings(least_area=0.0, agreement=0.9), True)
    np.testing.assert_array_equal(strict, labels)
    unsure = {key: (answer, 0.3) for key, (answer, _) in answers.items()}
    np.testing.assert_array_equal(outlined(labels, Answers((40, 60), unsure), how, True), labels)


def test_the_component_is_a_hint_if_asked_for():
    answers = dict.fromkeys((400, 50, 2400, 1), (np.zeros((40, 60), bool), 0.9))
    predict = Answers((40, 60), answers)
    outlined(halves(), predict, Sam2BoundariesSettings(least_area=0.1, most=2), True)
    point, hint = predict.asked[1]
    assert hint.shape == (256, 256) and hint[128, 85] == 4 and hint[0, 0] == -4
    assert point in [[19, 19], [20, 20], [19, 20], [20, 19]]
    outlined(halves(), predict, Sam2BoundariesSettings(least_area=0.1, hint=False), True)
    assert predict.asked[-1][1] is None


# -- in the flow, with a proposer in the segmenter's place -------------------------------------------------------


def two_colours() -> np.ndarray:
    """A bright rectangle on dark ground, with some noise."""
    rng = np.random.default_rng(0)
    image = np.full((80, 120, 3), 40)
    image[20:60, 30:90] = (220, 200, 60)
    return (image + rng.integers(0, 12, image.shape)).astype(np.uint8)


def test_the_proposer_answers_with_the_regions_that_a_component_fills(monkeypatch):
    prompter = ProposedMasks("slic")
    regions = np.kron(np.arange(1, 25).reshape(4, 6), np.ones((20, 20), int)).astype(np.int32)
    monkeypatch.setattr(prompter.proposer, "regions", lambda image: regions)
    look = prompter.look(two_colours())
    labels = np.zeros((80, 120), np.int32)
    labels[22:63, 27:88] = 1  # shifted against the rectangle
    out = outlined(
        labels,
        lambda points, boxes, mask: prompter.answer(look, points, boxes, mask),
        Sam2BoundariesSettings(agreement=0.6),
        prompter.square,
    )
    truth = np.zeros((80, 120), np.int32)
    truth[20:60, 20:80] = 1  # tiles of 20 pixels that the component fills by more than half
    np.testing.assert_array_equal(out, truth)


@pytest.mark.parametrize("name", ["prompt_refinement", "sam2_boundaries"])
def test_stages_run_behind_a_recipe(name, tiny_backbone):
    windows = {"windows": {"short_side": 80, "crop": 64, "stride": 32}, "text.templates": ("{}",)}
    recipe = Recipe("r").but(windows).but({name: True})
    segmenter = Segmenter(tiny_backbone, recipe)
    words = ["cat", "dog", "grass"]
    result = segmenter(two_colours(), words, keep_scores=True)
    assert result.mask.shape == (80, 120) and result.mask.dtype == np.int32
    assert np.isfinite(result.scores).all() and 0 <= result.scores.min()
    chosen = np.take_along_axis(result.scores, result.mask[None].astype(int), 0)
    assert (chosen > 0).all()
    again = segmenter(two_colours(), words)
    np.testing.assert_array_equal(again.mask, result.mask)
    assert segmenter.is_local() == (name == "sam2_boundaries")
    (identity,) = recipe[name].networks(tiny_backbone).items()
    assert identity[0] == "felzenszwalb" and "min_size" in identity[1]


@pytest.mark.parametrize(
    ("settings", "values"),
    [
        (PromptRefinementSettings, {"least_score": 1.0}),
        (PromptRefinementSettings, {"least_iou": -0.1}),
        (PromptRefinementSettings, {"least_area": 0}),
        (Sam2BoundariesSettings, {"least_area": 1.0}),
        (Sam2BoundariesSettings, {"agreement": 0.0}),
        (Sam2BoundariesSettings, {"most": 0}),
    ],
)
def test_bad_values_are_refused(settings, values):
    with pytest.raises(RecipeError, match=f"{next(iter(values))}="):
        settings(**values)


@pytest.mark.parametrize("name", ["prompt_refinement", "sam2_boundaries"])
def test_a_segmenter_that_is_not_here_is_named_before_any_work(name, tiny_backbone):
    recipe = Recipe("r").but({name: {"prompter": "sam5"}})
    with pytest.raises(RecipeError, match="sam5"):
        Segmenter(tiny_backbone, recipe)
