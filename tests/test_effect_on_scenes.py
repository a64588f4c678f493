"""No switch is silently without effect: each alone, on pictures of Scenes with SceneCLIP.

A switch must change the logits (or, behind the stitching, the scores) and the label map, or `Recipe.inert` must name
it; and what is named as inert must leave every label as it was.
"""

from dataclasses import dataclass

import numpy as np
import pytest
from conftest import thesis_content

from ovsslib import load_backbone, open_dataset
from ovsslib.recipe import ALWAYS_ON, Recipe, stage_info, stages
from ovsslib.recipe import POINTS as ALL_POINTS
from ovsslib.segmenter import Segmenter, window_logits_of
from ovsslib.text.prompts import PROMPTS

PICTURES = (0, 7)
OPTIONAL = [name for name in stages() if name not in ALWAYS_ON]
SETTINGS = {  # of stages whose published settings are for OpenAI's weights
    "sink_denoise": {"channels": (26, 71, 95, 113), "sigma": 2.0},
    "refocus_attention": {"threshold": 0.02},
    "experts": {"table": "naclip-scenes-object"},
}
BASE = Recipe.named("thesis-baseline", "scenes").but({"text.prompts": "single"})


@dataclass(frozen=True)
class Outcome:
    """Of each picture: stitched logits (Q, H, W), class scores (C, H, W), labels (H, W)."""

    logits: list[np.ndarray]
    scores: list[np.ndarray]
    masks: list[np.ndarray]

    def pixels_unlike(self, other: "Outcome") -> int:
        return sum(int((a != b).sum()) for a, b in zip(self.masks, other.masks, strict=True))

    def logits_unlike(self, other: "Outcome") -> float:
        return _distance(self.logits, other.logits)

    def scores_unlike(self, other: "Outcome") -> float:
        return _distance(self.scores, other.scores)


def _distance(one, other) -> float:
    """Largest difference; other numbers of queries are a difference too."""
    if any(a.shape != b.shape for a, b in zip(one, other, strict=True)):
        return np.inf
    return max(float(np.abs(a - b).max()) for a, b in zip(one, other, strict=True))


pytestmark = pytest.mark.slow  # tests/test_combinations.py asks the same of a small random model


@pytest.fixture(scope="module")
def outcome():
    """Function of a recipe and a view of Scenes; each pair is computed once."""
    backbone = load_backbone("sceneclip")
    views = {name: open_dataset(name) for name in ("scenes", "scenes-object")}
    known: dict[tuple[Recipe, str], Outcome] = {}

    def compute(recipe: Recipe, view: str = "scenes-object") -> Outcome:
        if (recipe, view) in known:
            return known[recipe, view]
        segmenter, found = Segmenter(backbone, recipe), Outcome([], [], [])
        text = segmenter.text(recipe["text"].vocabulary(views[view].vocabulary))
        words, queries = segmenter.words(text), len(text.query_class)
        for index in PICTURES:
            image = views[view][index][0]
            pixels = segmenter.prepare(image)
            stitched = window_logits_of([segmenter], pixels, [words], image.shape[:2])[0]
            made = segmenter.finish(stitched, image, pixels, text, keep_scores=True)
            found.logits.append(stitched.full().numpy()[:queries])
            found.scores.append(made.scores)
            found.masks.append(made.labels)
        known[recipe, view] = found
        return found

    return compute


POINTS = list(ALL_POINTS)


def before_stitching(name: str) -> bool:
    return POINTS.index(stage_info(name).point) < POINTS.index("refine")


@pytest.mark.parametrize("name", OPTIONAL)
def test_every_stage_alone(name, outcome):
    recipe = BASE.but({name: SETTINGS.get(name, True)})
    without, with_it = outcome(BASE), outcome(recipe)
    assert (with_it.logits_unlike(without) > 1e-4) == before_stitching(name)
    if stage_info(name).point != "labels":
        assert with_it.scores_unlike(without) > 1e-3
    assert (with_it.pixels_unlike(without) > 0) == (name not in recipe.inert())


def test_every_phase_switch_of_the_thesis(outcome):
    baseline = Recipe.from_thesis_config({}, "scenes")
    for switch, stage in thesis_content()["switches"].items():
        recipe = Recipe.from_thesis_config({switch: True}, "scenes")
        changed = outcome(recipe).pixels_unlike(outcome(baseline))
        assert (changed > 0) == (stage not in recipe.inert()), switch
    for strategy in ("top7", "top3", "adaptive"):
        recipe = Recipe.from_thesis_config({"template_strategy": strategy}, "scenes")
        assert outcome(recipe).pixels_unlike(outcome(baseline)), strategy


@pytest.mark.parametrize("stage", ["hierarchy", "calibration"])
def test_hierarchy_and_calibration_in_the_whole_system(stage, outcome):
    full = Recipe.named("thesis-2c", "scenes").but({"text.prompts": "single"})
    assert full.inert() == {}
    assert outcome(full).pixels_unlike(outcome(full.but({stage: False})))


@pytest.mark.parametrize("follower", [
    {"densecrf": True}, {"labels.probability_threshold": 0.3}, {"hierarchy": True},
])  # fmt: skip
def test_calibration_changes_masks_where_something_follows_it(follower, outcome):
    there = BASE.but(follower)
    calibrated = there.but(calibration=True)
    assert calibrated.inert() == {}
    assert outcome(calibrated).pixels_unlike(outcome(there))


LOGIT_FIELDS = [
    *({"attention.terms": terms} for terms in ("qk", "qq", "kk", "vv", "value", "qq+kk+vv")),
    {"attention": {"terms": "neighbour", "gaussian_std": 5.0}},
    {"attention.combine": "sum"},
    {"attention.gaussian_std": 5.0},
    {"attention.residual": False},
    {"attention.feed_forward": False},
    {"windows.crop": 0},
    {"windows.stride": 28},
    {"upsampling": {"method": "bilinear"}},
    {"upsampling": {"method": "bicubic"}},
    *({"image_engineering": {"use": ("original", view)}} for view in (
        "grayscale", "blur", "vertical_flip", "horizontal_flip")),
    {"text.auxiliary": "definitions", "text.auxiliary_weight": 0.2},
    {"text.auxiliary": "synonyms", "text.auxiliary_weight": 0.2},
    {"text.names": "synonyms"},
    *({"text.prompts": name} for name in PROMPTS if name not in ("single", "imagenet80")),
]  # fmt: skip


@pytest.mark.parametrize("changes", LOGIT_FIELDS, ids=str)
def test_fields_before_the_stitching(changes, outcome):
    recipe = BASE.but(changes)
    assert recipe.inert() == {}
    assert outcome(recipe).logits_unlike(outcome(BASE)) > 1e-4
    assert outcome(recipe).pixels_unlike(outcome(BASE))


WITH_OTHERS = [
    ({"text.prompts": "thesis-top7"}, {"text.normalise_each": True}),
    ({"text.names": "canonical"}, {"text.material_rules": True}),
    ({"sfr": True}, {"sfr.path_test": False}),
    ({"sfr": True}, {"sfr.released_path_test": False}),
    ({"feature_rcs": True}, {"feature_rcs.literal": True}),
    ({"feedback": True}, {"feedback.scales": "multi"}),
    ({"regions": True}, {"regions.pool": "mean"}),
    ({"regions": True}, {"regions.centred": False}),
    ({"upsampling.way_back": "as_is"}, {"upsampling.way_back": "attention_affinity"}),
    ({"upsampling.way_back": "as_is"}, {"upsampling.way_back": "inverse_norm"}),
    ({"hierarchy": True}, {"hierarchy.mode": "hard"}),
    ({"hierarchy": True}, {"hierarchy.text": "name"}),
    ({"hierarchy": True}, {"hierarchy.groups": "clusters"}),
    ({"densecrf": True}, {"densecrf.parameters": "deeplab"}),
    ({"labels.probability_threshold": 0.3}, {"labels.merge": "logit"}),
    ({"densecrf": True}, {"labels.logit_scale": 80.0}),
    ({"labels.closing": 7}, {"labels.closing_by": "class"}),
    ({}, {"labels.probability_threshold": 0.3}),
    ({}, {"labels.area_threshold": 0.1}),
    ({}, {"labels.closing": 7}),
    ({}, {"labels.merge": "logit"}),
    ({}, {"labels.closing_by": "class"}),
    ({"hierarchy": True}, {"labels.merge": "logit"}),
    ({"labels.area_threshold": 0.1}, {"labels.merge": "logit"}),
    ({"sfr": {"path_test": False}}, {"sfr.released_path_test": False}),
    ({"hierarchy": {"groups": "vocabulary"}}, {"hierarchy.count": 3}),
    ({}, {"text.auxiliary": "definitions"}),
    ({}, {"middle_layers": {"weight": 0.0}}),
    ({}, {"rcs": {"lam": 0.0, "tau": 1.0}}),
    ({}, {"sfr": {"lam": 0.0, "tau": 1.0}}),
    ({}, {"pamr": {"iterations": 0}}),
    ({}, {"densecrf": {"iterations": 0}}),
    ({}, {"densecrf": {"smoothness_weight": 0.0, "appearance_weight": 0.0}}),
    ({}, {"feedback": {"iterations": 0}}),
    ({}, {"feature_rcs": {"alpha": 0.0}}),
    ({}, {"regions": {"region_weight": 0.0, "global_weight": 0.0}}),
    ({}, {"upsampling": {"method": "bilinear", "grid": 1}}),
    ({}, {"image_engineering": {"use": ("original",)}}),
    ({"hierarchy": True}, {"calibration": {"when": "after"}}),
]


@pytest.mark.parametrize(("around", "changes"), WITH_OTHERS, ids=str)
def test_labels_change_exactly_where_nothing_is_said_to_be_inert(around, changes, outcome):
    before = BASE.but(around)
    after = before.but(changes)
    said = set(after.inert()) - set(before.inert())
    view = "scenes" if "text.material_rules" in changes else "scenes-object"
    assert (outcome(after, view).pixels_unlike(outcome(before, view)) > 0) == (not said), said
    assert all(key.partition(".")[0] in str(changes) for key in said)


def test_scaling_of_the_guidance_needs_windows_that_go_together(outcome):
    """Released LoftUp scales colours over a batch; windows go one by one on a CPU, where both are the same."""
    backbone = load_backbone("sceneclip")
    own = BASE.but({"upsampling.guidance_scaling": "image"})
    shared = BASE.but({"upsampling.guidance_scaling": "batch"})
    assert outcome(own).logits_unlike(outcome(shared)) == 0
    backbone.batch_of_windows = 2
    image = open_dataset("scenes")[0][0]
    maps = []
    for recipe in (own, shared):
        segmenter = Segmenter(backbone, recipe)
        text = segmenter.text(["sky", "grass", "person", "tree"])
        words = segmenter.words(text)
        maps.append(
            window_logits_of([segmenter], segmenter.prepare(image), [words])[0].full().numpy()
        )
    assert np.abs(maps[0] - maps[1]).max() > 1e-5
