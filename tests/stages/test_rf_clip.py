"""RF-CLIP as a whole against outputs recorded from its official code."""

import numpy as np
import pytest
import torch
from conftest import relative_error, vectors
from torch.nn import functional as F

from ovsslib.errors import RecipeError
from ovsslib.recipe import Recipe
from ovsslib.segmenter import Segmenter, window_logits_of
from ovsslib.stages.guided_mean_kk import (
    GuidedMeanKkSettings,
    gather,
    key_attention,
    mean_tokens,
    patch_attention,
    thresholded_cosines,
)

RFCLIP = vectors("rf-clip")
CHANNELS = tuple(RFCLIP["sink_channels"].tolist())
VARIANTS = {
    "release_sigma5": {"sink_denoise": {"sigma": 5.0}},
    "denoise_sigma1.6": {"sink_denoise": {"sigma": 1.6}},
    "denoise_sigma1.6_refocus_thr0.06": {
        "sink_denoise": {"sigma": 1.6}, "refocus_attention": {"threshold": 0.06, "beta": 0.6},
    },
}  # fmt: skip


def recipe_of(variant="release_sigma5", weight=0.03, mix=0.1):
    recipe = Recipe.named("rf-clip").but({"sink_denoise.channels": CHANNELS, "windows.crop": 0})
    recipe = recipe.but({"visual_text": {"weight": weight, "distance": 0.1}})
    return recipe.but({"class_token_mix.weight": mix}).but(VARIANTS[variant])


@pytest.mark.parametrize("size", ["64x64", "80x112"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_tokens_agree_with_the_official_code(variant, size, tiny_backbone, tiny_inputs):
    segmenter = Segmenter(tiny_backbone, recipe_of(variant))
    tokens = segmenter.features(tiny_inputs[f"image_{size}"], keep_cls=True)
    assert relative_error(tokens[:, 1:], RFCLIP[f"features__{variant}__{size}"]) < 1e-4
    assert relative_error(tokens[:, 0], RFCLIP[f"class_token__{variant}__{size}"]) < 1e-4


def test_each_step_agrees_with_the_official_code(tiny_backbone, tiny_inputs):
    segmenter = Segmenter(tiny_backbone, recipe_of("denoise_sigma1.6"))
    trunk = segmenter.trunk(tiny_inputs["image_80x112"])
    final = segmenter.last_block.plain(trunk)
    guide = mean_tokens([*(trunk.inputs[i] for i in range(1, 12)), final])
    assert relative_error(guide[0], RFCLIP["guide__80x112"]) < 1e-4
    stream = gather(trunk.tokens, thresholded_cosines(guide[:, 1:], 0.4))
    assert relative_error(stream[0], RFCLIP["enhanced__80x112"]) < 1e-4
    shared = sum(key_attention(trunk.taps[i].k, tiny_backbone.scale) for i in range(11))
    keys = tiny_backbone.project(11, stream).k
    weights = patch_attention(shared, keys, tiny_backbone.scale, 12)
    assert relative_error(weights[0], RFCLIP["attention_first__80x112"]) < 1e-4


@pytest.mark.parametrize("size", ["64x64", "80x112"])
@pytest.mark.parametrize(("weight", "mix"), [(0.03, 0.1), (0.3, 0.4)])
def test_logits_agree_with_the_official_code(weight, mix, size, tiny_backbone, tiny_inputs):
    segmenter = Segmenter(tiny_backbone, recipe_of(weight=weight, mix=mix))
    pixels = tiny_inputs[f"image_{size}"]
    ours = segmenter.logits(pixels, RFCLIP["text9"])
    low = RFCLIP[f"logits__a{weight}_w{mix}_h0.1__{size}"]
    assert relative_error(ours, F.interpolate(low, pixels.shape[-2:], mode="bilinear")) < 1e-4


def test_windows_use_the_class_token_of_the_whole_picture(tiny_backbone, tiny_inputs):
    """Windows of 64 x 64 with steps of 32 start at columns 0, 32 and 48 of the picture, rows 0 and
    16.
    """
    recipe = recipe_of(weight=0.3, mix=0.4).but({"windows": {"crop": 64, "stride": 32}})
    segmenter = Segmenter(tiny_backbone, recipe)
    window = window_logits(segmenter, tiny_inputs["image_80x112"], RFCLIP["text9"])[1:2]
    assert relative_error(window, RFCLIP["logits_window__y0_x32_64x64"]) < 1e-4
    own = recipe.but({"visual_text.class_token": "window", "class_token_mix.class_token": "window"})
    other = window_logits(
        Segmenter(tiny_backbone, own), tiny_inputs["image_80x112"], RFCLIP["text9"]
    )
    assert relative_error(other[1:2], window) > 1e-2


def window_logits(segmenter, pixels, text):
    """Logits (N, Q, h, w) of all windows of one picture, before the stitching."""
    return window_logits_of([segmenter], pixels[0], [text])[0].windows()


def test_batches_and_single_pictures_agree(tiny_backbone, tiny_inputs):
    one = tiny_inputs["image_80x112"]
    both = torch.cat([one, one.flip(-1)])
    segmenter = Segmenter(tiny_backbone, recipe_of("denoise_sigma1.6", 0.3, 0.4))
    alone = torch.cat([segmenter.features(both[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(segmenter.features(both), alone, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("changes", [
    {"sink_denoise": False}, {"refocus_attention": {"threshold": 0.06}}, {"visual_text": False},
    {"class_token_mix": False}, {"guided_mean_kk.threshold": 0.7}, {"guided_mean_kk": False},
], ids=str)  # fmt: skip
def test_every_part_is_a_real_switch(changes, tiny_backbone, tiny_inputs):
    recipe = recipe_of("denoise_sigma1.6", 0.3, 0.4)
    args = (tiny_inputs["image_80x112"], RFCLIP["text9"])
    plain = Segmenter(tiny_backbone, recipe).logits(*args)
    assert relative_error(Segmenter(tiny_backbone, recipe.but(changes)).logits(*args), plain) > 1e-4


def test_the_base_attention_is_said_to_be_inert_and_is(tiny_backbone, tiny_inputs):
    recipe = recipe_of("release_sigma5").but(attention={"terms": "kk", "residual": False})
    assert {"attention.terms", "attention.residual"} <= set(recipe.inert())
    ours = Segmenter(tiny_backbone, recipe).features(tiny_inputs["image_64x64"])
    assert (
        relative_error(ours[0].flatten(0, 1), RFCLIP["features__release_sigma5__64x64"][0]) < 1e-4
    )


def test_parts_work_on_another_base(tiny_backbone):
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    base = Recipe.named("sclip").but({"windows.short_side": 64})
    words = ["cat", "dog", "sky", "car"]
    plain = Segmenter(tiny_backbone, base)(image, words, keep_scores=True).scores
    for changes in (
        {"sink_denoise": {"channels": CHANNELS, "sigma": 1.6}}, {"class_token_mix": True},
        {"refocus_attention": {"threshold": 0.05}}, {"visual_text": {"weight": 0.5}},
    ):  # fmt: skip
        other = Segmenter(tiny_backbone, base.but(changes))(image, words, keep_scores=True).scores
        assert np.abs(other - plain).max() > 1e-4, changes


def test_sums_that_half_precision_cannot_hold_are_scaled_down():
    tokens = 300 * torch.randn(1, 1 + 400, 16, generator=torch.Generator().manual_seed(0)) + 200
    similarity = torch.ones(1, 400, 400)
    full = gather(tokens, similarity)
    half = gather(tokens.half(), similarity)
    assert full.abs().max() > 65504 and half.isfinite().all()
    shapes = [F.layer_norm(x[:, 1:].float(), (16,)) for x in (full, half)]
    torch.testing.assert_close(shapes[1], shapes[0], atol=1e-2, rtol=1e-2)


def test_what_it_cannot_go_with_is_refused():
    for name in ("rcs", "sfr", "procrustes", "class_distribution_attention"):
        with pytest.raises(RecipeError, match=name):
            Recipe("x").but({"guided_mean_kk": True, name: True})
    with pytest.raises(RecipeError, match="guided_mean_kk.threshold=1.0"):
        GuidedMeanKkSettings(threshold=1.0)
