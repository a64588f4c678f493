"""All combinations of the thesis's phase switches, and all pairs of stages, on a tiny random model."""

import functools
import itertools
import random

import numpy as np
import pytest
import torch
from conftest import relative_error, thesis_content

from ovsslib.errors import RecipeError
from ovsslib.networks.loftup import LoftUp
from ovsslib.recipe import ALWAYS_ON, Recipe, make_settings, stages
from ovsslib.segmenter import Segmenter, Words, window_logits_of
from ovsslib.text.template_table import TemplateTable

OPTIONAL = [name for name in stages() if name not in ALWAYS_ON]
SMALL = {"windows": {"short_side": 64, "crop": 64, "stride": 32}, "text.templates": ("a {}.",)}
WORDS = ["cat", "dog", "grass", "sky", "car"]
SETS = 20_000  # sets of stages that are tried; all of them are too many

THESIS_SWITCHES = thesis_content()["switches"]


@pytest.fixture(scope="module")
def loftup_file(tmp_path_factory):
    """Random LoftUp weights of the tiny model's width."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("loftup") / "weights.pt"
    torch.save(LoftUp(24).state_dict(), file)
    return str(file)


@pytest.fixture(autouse=True)
def second_model(second_models):
    """Stages with a guide or masks have one at hand."""


@pytest.fixture(scope="module", autouse=True)
def table_file(tmp_path_factory):
    """A table of templates for the words and the tiny model."""
    names = ("background", *WORDS)
    chosen = tuple((index % 3, (index + 1) % 3) for index in range(6))
    table = TemplateTable(
        names, (), ("a {}.", "the {}!", "{} there"), chosen, "tiny", "vectors", ("tiny",), "base"
    )
    FILES["table"] = str(table.save(tmp_path_factory.mktemp("table") / "table.json"))


FILES: dict[str, str] = {}


@pytest.fixture(scope="module")
def image():
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (5, 7, 3))
    return np.kron(coarse, np.ones((13, 11, 1))).astype(np.uint8)  # 65 x 77, blocks of one colour


def changes_of(names, loftup_file):
    changes = dict.fromkeys(names, True)
    if "upsampling" in names:
        changes["upsampling"] = {"weights": loftup_file}
    if "clusters" in names:
        changes["clusters"] = {"eps": 0.9}  # the released radius finds none in so few patches
    if "sfr" in names:
        changes["sfr"] = {"pamr_iterations": 2}
    if "sink_denoise" in names:  # the published channels are for OpenAI's weights alone
        changes["sink_denoise"] = {"channels": (4, 16, 18, 32), "sigma": 1.6}
    if "refocus_attention" in names:
        changes["refocus_attention"] = {"threshold": 0.05}  # random weights have flat attention
    if "experts" in names:
        changes["experts"] = {"table": FILES.get("table", "none"), "count": 2}
    if "text_calibration" in names:
        changes["text_calibration"] = {"min_seeds": 2}  # there are few patches
    if "prompt_refinement" in names:  # on noise no region of a proposer fits a region of labels
        changes["prompt_refinement"] = {"least_score": 0.0, "least_area": 9, "least_iou": 0.1}
    if "sam2_boundaries" in names:
        changes["sam2_boundaries"] = {"agreement": 0.1, "least_iou": 0.1}
    if any(hasattr(stages()[name].settings, "guide_name") for name in names):
        changes["windows.pad_to"] = 16  # windows are whole numbers of the guide's patches
    return changes


def made(names, loftup_file):
    """The recipe with these stages on, or the reason why there is none."""
    try:
        return Recipe("made").but(SMALL).but(changes_of(names, loftup_file))
    except RecipeError as error:
        return str(error)


def test_every_combination_of_stages_is_made_or_refused_with_a_reason():
    """Refusals hold for pairs, so a set of stages must be refused exactly if a pair in it is.

    All sets of three, and larger ones drawn with a fixed seed.
    """
    refused = {
        frozenset(pair)
        for size in (1, 2)
        for pair in itertools.combinations(OPTIONAL, size)
        if isinstance(made(pair, None), str)
    }
    settings = {name: make_settings(name) for name in OPTIONAL}
    chosen = random.Random(0)
    # small sets can be allowed, large ones seldom are
    for number in range(SETS):
        names = frozenset(chosen.sample(OPTIONAL, 1 + number % 8))
        expected = any(pair <= names for pair in refused)
        try:
            Recipe("all", {name: settings[name] for name in names})
            assert not expected, sorted(names)
        except RecipeError as error:
            assert expected, (sorted(names), error)
            assert "cannot work: " in str(error) and len(str(error)) > 50


def test_every_combination_of_thesis_switches_runs(tiny_backbone, loftup_file):
    picture = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    seen = set()
    for flags in itertools.product((False, True), repeat=len(THESIS_SWITCHES)):
        recipe = Recipe.from_thesis_config(dict(zip(THESIS_SWITCHES, flags, strict=True))).but(
            SMALL
        )
        if "upsampling" in recipe:
            recipe = recipe.but({"upsampling.weights": loftup_file})
        result = Segmenter(tiny_backbone, recipe)(picture, WORDS, keep_scores=True)
        assert result.mask.shape == (40, 48) and np.isfinite(result.scores).all(), flags
        seen.add(recipe.key())
    assert len(seen) == 2 ** len(THESIS_SWITCHES)


@functools.cache
def covering_sets(size=8):
    """Sets of stages that go together, so that every pair that goes together is in at least one."""
    goes = {
        frozenset(pair)
        for pair in itertools.combinations(OPTIONAL, 2)
        if not isinstance(made(pair, None), str)
    }
    open_pairs, sets = set(goes), []
    while open_pairs:
        chosen = sorted(min(open_pairs, key=sorted))
        while len(chosen) < size:
            gains = {
                name: sum(frozenset({name, other}) in open_pairs for other in chosen)
                for name in OPTIONAL
                if name not in chosen and all(frozenset({name, other}) in goes for other in chosen)
            }
            if not gains or max(gains.values()) == 0:
                break
            chosen.append(max(gains, key=gains.get))
        sets.append(tuple(chosen))
        open_pairs -= {frozenset(pair) for pair in itertools.combinations(chosen, 2)}
    return sets


@pytest.mark.parametrize(
    "part", [0, *(pytest.param(part, marks=pytest.mark.slow) for part in range(1, 8))]
)
def test_every_pair_that_goes_together_runs_to_a_mask_with_finite_scores(
    part, tiny_backbone, image, loftup_file
):
    for names in covering_sets()[part::8]:
        recipe = made(names, loftup_file)
        assert not isinstance(recipe, str), recipe
        try:
            result = Segmenter(tiny_backbone, recipe)(
                image, WORDS, background=["wall"], keep_scores=True
            )
        except Exception as error:
            raise AssertionError(f"{', '.join(names)}: {error}") from error
        assert result.mask.shape == (65, 77) and result.mask.dtype == np.int32
        assert 0 <= result.mask.min() and result.mask.max() < 6
        assert result.scores.shape == (6, 65, 77) and np.isfinite(result.scores).all(), names
        assert result.scores.min() >= 0 and result.scores.max() <= 1 + 1e-4, names


def test_everything_of_the_thesis_at_once_changes_the_mask(tiny_backbone, image, loftup_file):
    masks = []
    for name in ("thesis-baseline", "thesis-full", "thesis-2c"):
        recipe = Recipe.named(name).but(SMALL)
        if "upsampling" in recipe:
            recipe = recipe.but({"upsampling.weights": loftup_file})
        masks.append(Segmenter(tiny_backbone, recipe)(image, WORDS).mask)
    assert (masks[0] != masks[1]).any() and (masks[1] != masks[2]).any()


@pytest.mark.parametrize("name", OPTIONAL)
def test_each_stage_changes_scores_or_labels_or_says_that_it_is_inert(
    name, tiny_backbone, loftup_file
):
    noise = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    larger = {"windows": {"short_side": 96, "crop": 0}}
    plain = Recipe("plain").but(SMALL).but(larger)
    recipe = made({name}, loftup_file).but(larger)
    run = [
        Segmenter(tiny_backbone, one)(noise, WORDS, background=["wall"], keep_scores=True)
        for one in (plain, recipe)
    ]
    changed = relative_error(*(torch.from_numpy(one.scores) for one in run)) > 1e-5
    relabelled = (run[0].mask != run[1].mask).any()
    assert changed or relabelled
    if name in recipe.inert():
        assert not relabelled


def test_groups_take_no_part_in_feedback(tiny_backbone, tiny_inputs):
    """Group texts behind the words must not move the words' logits, whatever they are."""
    text = tiny_inputs["text"]
    groups = -text[:3]
    for stage in ("feedback", "sfr"):
        recipe = Recipe("g").but({"windows.crop": 0}).but({stage: True})
        segmenter = Segmenter(tiny_backbone, recipe)
        pixels = tiny_inputs["image_80x112"]
        alone = window_logits_of([segmenter], pixels[0], [text])[0].full()
        words = Words(torch.cat([text, groups]), queries=6)
        both = window_logits_of([segmenter], pixels[0], [words])[0].full()
        assert both.shape[0] == 9
        torch.testing.assert_close(both[:6], alone, atol=1e-6, rtol=1e-5)
