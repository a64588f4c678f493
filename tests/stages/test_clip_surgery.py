"""CLIP Surgery against outputs recorded from its official code: both paths, feature surgery, maps, points."""

import numpy as np
import pytest
import torch
from conftest import relative_error, vectors
from torch.nn import functional as F

from ovsslib.errors import ImageError, RecipeError
from ovsslib.images.points import points_of_map
from ovsslib.recipe import Recipe
from ovsslib.segmenter import Segmenter
from ovsslib.stages.dual_path import DualPathSettings, value_attention
from ovsslib.stages.feature_surgery import FeatureSurgerySettings, surgery, word_weights
from ovsslib.stages.word_range import stretched

RECORDED = vectors("clip-surgery")
TOLERANCE = 1e-4
SIZES = ["64x64", "96x96"]


@pytest.fixture
def pictures(tiny_inputs) -> dict[str, torch.Tensor]:
    """The pictures of the recorded arrays, by size."""
    return {
        "64x64": tiny_inputs["image_64x64"], "80x112": tiny_inputs["image_80x112"],
        "96x96": RECORDED["image_96x96"],
    }  # fmt: skip


def recipe_of(**windows) -> Recipe:
    return Recipe.named("clip-surgery").but(windows={"short_side": 64, **windows})


def unit_tokens(key: str) -> torch.Tensor:
    """Recorded tokens (1, 1 + P, D) of unit length, class token first."""
    return F.normalize(RECORDED[f"{key}__out"], dim=-1)


@pytest.mark.parametrize("key", ["64x64", "96x96", "sclippos_80x112", "sclippos_96x96"])
def test_tokens_agree_with_the_official_code(key, tiny_backbone, pictures):
    positions = "sclip" if key.startswith("sclippos") else "bilinear"
    segmenter = Segmenter(tiny_backbone, recipe_of(positions=positions))
    ours = segmenter.features(pictures[key.split("_")[-1]], keep_cls=True)
    assert relative_error(ours, RECORDED[f"{key}__out"]) < TOLERANCE


def test_both_paths_agree(tiny_backbone, pictures):
    for size in SIZES:
        segmenter = Segmenter(tiny_backbone, recipe_of())
        trunk = segmenter.trunk(pictures[size])
        made = segmenter.recipe["dual_path"].replace_block(
            segmenter.last_block.context(trunk, pictures[size])
        )
        assert made.class_token is None
        assert relative_error(made.patches[0], RECORDED[f"{size}__new"][1:]) < TOLERANCE
        own = segmenter.last_block.plain(trunk)
        assert relative_error(own[0], RECORDED[f"{size}__ori"]) < TOLERANCE
    trunk = tiny_backbone.trunk(pictures["64x64"], taps={6}, inputs={6, 7})
    assert relative_error(trunk.inputs[6][0], RECORDED["64x64__start"]) < TOLERANCE
    assert relative_error(trunk.inputs[7][0], RECORDED["64x64__ori_first"]) < TOLERANCE
    first = trunk.inputs[6] + value_attention(tiny_backbone, 6, trunk.taps[6])
    assert relative_error(first[0], RECORDED["64x64__new_first"]) < TOLERANCE


def test_what_was_seen_before_does_not_matter(tiny_backbone, pictures):
    """The release keeps the table of positions of the last size it saw; a picture's answer then depends on it."""
    segmenter = Segmenter(tiny_backbone, recipe_of())
    before = segmenter.features(pictures["64x64"], keep_cls=True)
    segmenter.features(pictures["96x96"])
    assert torch.equal(segmenter.features(pictures["64x64"], keep_cls=True), before)
    assert relative_error(before, RECORDED["64x64_after_96x96__out"]) > 0.1


def test_depth_counts_blocks_from_the_end(tiny_backbone, pictures):
    pixels = torch.cat([pictures["80x112"], pictures["80x112"].flip(-1)])
    for depth in (1, 3, 12):
        recipe = recipe_of().but(dual_path={"depth": depth})
        inputs = tiny_backbone.trunk(pixels, inputs=range(12), positions="bilinear").inputs
        stream = inputs[12 - depth]
        for index in range(12 - depth, 12):
            v = tiny_backbone.project(index, inputs[index]).v
            mixed = (tiny_backbone.scale * v @ v.mT).softmax(-1) @ v
            stream = stream + tiny_backbone.join(index, mixed)
        ours = Segmenter(tiny_backbone, recipe).features(pixels)
        assert relative_error(ours.flatten(1, 2), tiny_backbone.head(stream)[:, 1:]) < TOLERANCE
    with pytest.raises(RecipeError, match="dual_path.depth=13: the model has 12 blocks"):
        Segmenter(tiny_backbone, recipe_of().but(dual_path={"depth": 13}))
    with pytest.raises(RecipeError, match="dual_path.depth=0"):
        DualPathSettings(depth=0)


def test_what_the_path_cannot_stand_beside():
    for name in ("middle_layers", "rcs", "sfr", "local_mask", "gem", "self_calibration"):
        with pytest.raises(RecipeError):
            Recipe("both").but(dual_path=True, **{name: True})
    assert Recipe("x").but(dual_path=True, attention={"terms": "kk"}).inert() == {
        "attention.terms": "another stage computes the last block by itself"
    }


@pytest.mark.parametrize("size", SIZES)
def test_feature_surgery_agrees(size, tiny_inputs):
    tokens, text = unit_tokens(size), tiny_inputs["text"]
    logits = (tokens @ text.T).transpose(1, 2)  # (1, Q, 1 + P)
    assert relative_error(logits.transpose(1, 2), RECORDED[f"{size}__cosine"]) < TOLERANCE
    weights = word_weights(logits[:, :, 0])
    assert relative_error(weights[None], RECORDED[f"{size}__w"]) < TOLERANCE
    ours = surgery(logits, weights).transpose(1, 2)
    assert relative_error(ours, RECORDED[f"{size}__surgery"]) < TOLERANCE


@pytest.mark.parametrize("size", SIZES)
def test_recipe_gives_the_recorded_similarities(size, tiny_backbone, tiny_inputs, pictures):
    """Through the flow: as one window, logits at the size of the patch grid's picture, bilinear."""
    text, side = tiny_inputs["text"], int(size[:2])
    grid = (side // 16, side // 16)

    def upsampled(patches: torch.Tensor) -> torch.Tensor:
        cells = patches[:, 1:].transpose(1, 2).unflatten(2, grid)
        return F.interpolate(cells, (side, side), mode="bilinear")

    plain = Segmenter(tiny_backbone, recipe_of()).logits(pictures[size], text)
    assert relative_error(plain, upsampled(RECORDED[f"{size}__cosine"])) < TOLERANCE
    recipe = recipe_of().but(feature_surgery=True)
    ours = Segmenter(tiny_backbone, recipe).logits(pictures[size], text)
    assert relative_error(ours, upsampled(RECORDED[f"{size}__surgery"])) < TOLERANCE


@pytest.mark.parametrize("size", SIZES)
def test_redundant_text_agrees(size, tiny_backbone, tiny_inputs, pictures, monkeypatch):
    """The recorded redundant text is row 5 of the text; here the empty string is made to give it."""
    text = tiny_inputs["text"]
    asked = []

    def encoded(backbone, texts, settings):
        asked.append((texts, settings.prompts))
        return text[5:6]

    monkeypatch.setattr("ovsslib.stages.feature_surgery.encode_texts", encoded)
    recipe = recipe_of().but(feature_surgery={"redundant": ""})
    side = int(size[:2])
    expected = RECORDED[f"{size}__redundant"][:, 1:].transpose(1, 2).unflatten(2, (side // 16,) * 2)
    expected = F.interpolate(expected, (side, side), mode="bilinear")
    ours = Segmenter(tiny_backbone, recipe).logits(pictures[size], text[:2])
    assert relative_error(ours, expected) < TOLERANCE
    assert asked == [([""], "clip-surgery85")]
    # a word that is alone has nothing in common with others, so the redundant text steps in by itself
    alone = Segmenter(tiny_backbone, recipe_of().but(feature_surgery=True))
    one = alone.logits(pictures[size], text[:1])
    assert relative_error(one, expected[:, :1]) < TOLERANCE


@pytest.mark.parametrize("size", SIZES)
def test_heat_maps_agree(size):
    for name, source in (("map", "surgery"), ("cosine_map", "cosine")):
        cells = RECORDED[f"{size}__{source}"][:, 1:].transpose(1, 2)
        side = int(cells.shape[-1] ** 0.5)
        maps = F.interpolate(stretched(cells.unflatten(2, (side, side))), (40, 50), mode="bilinear")
        assert relative_error(maps.permute(0, 2, 3, 1), RECORDED[f"{size}__{name}"]) < TOLERANCE


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("word", [0, 1])
def test_points_agree(size, word):
    cells = RECORDED[f"{size}__surgery"][0, 1:, word]
    side = int(len(cells) ** 0.5)
    points, labels = points_of_map(cells.reshape(side, side), (40, 50))
    assert points.tolist() == RECORDED[f"{size}__points{word}"].tolist()
    assert labels.tolist() == RECORDED[f"{size}__pointlabels{word}"].tolist()


def test_points_of_flat_oblong_and_bad_maps():
    points, labels = points_of_map(np.zeros((5, 9)), (40, 90))
    assert points.shape == (0, 2) and labels.shape == (0,) and labels.dtype == np.uint8
    heat = torch.zeros(4, 8)
    heat[:2, 6:] = 1.0
    points, labels = points_of_map(heat, (40, 160))
    assert points.tolist() == [[140, 10], [20, 10]] and labels.tolist() == [1, 0]
    for bad in (np.zeros(4), np.full((2, 2), np.nan), np.zeros((0, 3))):
        with pytest.raises(ImageError, match="heat map"):
            points_of_map(bad, (4, 4))


def test_maps_of_the_recipe_are_the_scores(tiny_backbone):
    """`clip-surgery-maps` gives each word's map as its scores: 0 to 1, the word's own range."""
    picture = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    recipe = Recipe.named("clip-surgery-maps").but(
        windows={"short_side": 96}, text={"prompts": "none"}
    )
    segmenter = Segmenter(tiny_backbone, recipe)
    made = segmenter(picture, ["cat", "dog", "sky"], keep_scores=True)
    assert made.scores.shape == (3, 60, 90)
    assert made.scores.min() >= 0 and made.scores.max() <= 1
    assert np.array_equal(made.scores.argmax(0), made.mask)
    text = segmenter.text(["cat", "dog", "sky"])
    pixels = segmenter.prepare(picture)
    assert pixels.shape == (3, 96, 96)
    tokens = F.normalize(segmenter.features(pixels[None], keep_cls=True), dim=-1)
    logits = (tokens @ text.features.T).transpose(1, 2)
    maps = surgery(logits, word_weights(logits[:, :, 0]))[:, :, 1:].unflatten(2, (6, 6))
    expected = F.interpolate(stretched(maps), (60, 90), mode="bilinear")[0]
    torch.testing.assert_close(torch.from_numpy(made.scores), expected, atol=1e-4, rtol=0)
    one = segmenter(picture, ["cat"], keep_scores=True)
    assert one.scores.max() > 0.5  # a word alone has a map too


def test_stretching_by_hand():
    maps = torch.tensor([[[1.0, 3.0], [2.0, 1.0]], [[4.0, 4.0], [4.0, 4.0]]])
    assert stretched(maps).tolist() == [[[0, 1], [0.5, 0]], [[0, 0], [0, 0]]]


def test_surgery_works_behind_any_recipe_and_leaves_groups_alone(tiny_backbone):
    picture = np.random.default_rng(1).integers(0, 256, (48, 80, 3), dtype=np.uint8)
    words = ["cat", "dog", "sky", "grass"]
    for name in ("sclip", "naclip", "gem", "sc-clip"):
        recipe = Recipe.named(name).but(
            windows={"short_side": 64, "crop": 64, "stride": 32}, text={"templates": ("{}",)}
        )
        segmenter = Segmenter(tiny_backbone, recipe)
        plain, text = segmenter(picture, words).mask, segmenter.text(words).features
        pixels, changed = segmenter.prepare(picture)[None], recipe.but(feature_surgery=True)
        before = segmenter.logits(pixels, text)
        after = Segmenter(tiny_backbone, changed).logits(pixels, text)
        torch.testing.assert_close(after.mean(1), torch.zeros_like(after[:, 0]), atol=1e-5, rtol=0)
        assert relative_error(after, before - before.mean(1, keepdim=True)) > 1e-3, name
        # a redundant text takes the same from every word
        same = recipe.but(feature_surgery={"redundant": ""})
        assert np.array_equal(Segmenter(tiny_backbone, same)(picture, words).mask, plain), name
        assert ("feature_surgery" in same.inert()) == (name != "naclip")  # whose PAMR reads logits
    grouped = Recipe("groups").but(
        windows={"short_side": 64}, text={"templates": ("{}",)}, hierarchy={"groups": "clusters"}
    )
    plain = Segmenter(tiny_backbone, grouped)(picture, words).mask
    redundant = grouped.but(feature_surgery={"redundant": "", "temperature": 2.0})
    assert np.array_equal(Segmenter(tiny_backbone, redundant)(picture, words).mask, plain)


def test_surgery_says_what_cannot_matter():
    assert Recipe("x").but(feature_surgery=True).inert() == {}
    assert "feature_surgery" in Recipe("x").but(feature_surgery={"temperature": 0.0}).inert()
    maps = Recipe("x").but(windows={"crop": 0}, word_range=True)
    assert maps.but(feature_surgery={"redundant": ""}).inert() == {}
    both = maps.but(feature_surgery={"redundant": "", "temperature": 1.0})
    assert set(both.inert()) == {"feature_surgery.temperature"}
    flipped = {"use": ("horizontal_flip",)}
    with pytest.raises(RecipeError, match="in place"):
        Recipe("x").but(feature_surgery=True, image_engineering=flipped)
    with pytest.raises(RecipeError, match="feature_surgery.temperature"):
        FeatureSurgerySettings(temperature=-1.0)
