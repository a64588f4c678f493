"""ProxyCLIP against outputs recorded from its official code; degenerate pictures; what it cannot stand beside."""

import pytest
import torch
import torch.nn.functional as F
from conftest import relative_error, vectors
from guide_cases import GivenGuide, tiny_guide

from ovsslib.errors import ImageError, ModelError, RecipeError
from ovsslib.recipe import Recipe
from ovsslib.segmenter import Segmenter
from ovsslib.stages import guided
from ovsslib.stages.guided import (
    guided_attention,
    guided_weights,
    mean_similarity,
    unit_patches,
    values_on,
)
from ovsslib.stages.proxy_attention import ProxyAttentionSettings

RECORDED = vectors("proxyclip")
TOLERANCE = 1e-4
GIVEN = {
    # vector: (features, picture, settings)
    "tokens__64_4x4": ("ex__64_4x4", "image_64x64", {}),
    "tokens__64_8x8": ("ex__64_8x8", "image_64x64", {}),
    "tokens__64_7x7": ("ex__64_7x7", "image_64x64", {}),
    "tokens__64_8x8_beta0.8_gamma10": ("ex__64_8x8", "image_64x64", {"beta": 0.8, "gamma": 10.0}),
    # the official order of values mixes rows and columns where a window is not square; this is the right one
    "tokens__80x112_10x14_rowmajor": ("ex__80x112_10x14", "image_80x112", {}),
}


@pytest.fixture
def segmenter_with(tiny_backbone, monkeypatch):
    """Function (guide, settings, windows) -> Segmenter whose recipe has this guide."""

    def make(guide, settings=None, **windows):
        monkeypatch.setattr(Segmenter, "_guide", lambda self: guide)
        recipe = Recipe("proxy").but({"windows": windows, "proxy_attention": settings or {}})
        return Segmenter(tiny_backbone, recipe)

    return make


@pytest.mark.parametrize("key", sorted(GIVEN))
def test_tokens_of_given_features_agree_with_the_official_code(key, segmenter_with, tiny_inputs):
    features, picture, settings = GIVEN[key]
    guide = GivenGuide(RECORDED[features])
    tokens = segmenter_with(guide, settings).features(tiny_inputs[picture])
    assert relative_error(tokens.flatten(1, 2), RECORDED[key]) < TOLERANCE


def test_weights_agree():
    features = unit_patches(RECORDED["ex__64_4x4"])
    weights = guided_weights(features[0], slice(0, 16), float(mean_similarity(features)))
    assert relative_error(weights, RECORDED["weights__64_4x4"][0]) < TOLERANCE


def test_logits_of_a_window_and_of_windows_agree(segmenter_with, tiny_inputs):
    text, guide = tiny_inputs["text"], tiny_guide()
    window = segmenter_with(guide, crop=0).logits(tiny_inputs["image_64x64"], text)
    assert relative_error(window, RECORDED["logits_window__64_dino"]) < TOLERANCE
    slide = segmenter_with(guide, crop=56, stride=28).logits(tiny_inputs["image_80x112"], text)
    assert relative_error(slide, RECORDED["logits_slide56_28__80x112_dino"]) < TOLERANCE
    padded = segmenter_with(guide, crop=64, stride=32, pad_to=56)
    logits = padded.logits(tiny_inputs["image_80x112"], text)
    assert relative_error(logits, RECORDED["logits_slide64_32_padded__80x112_dino"]) < TOLERANCE


# -- pieces ------------------------------------------------------------------------------------------------------


def test_rows_in_parts_are_the_equation(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    features = F.normalize(torch.randn(11, 5, generator=generator), dim=1)
    values = torch.randn(11, 3, generator=generator)
    similar = features @ features.T
    scores = (similar - 1.2 * similar.mean()) * 3
    expected = scores.masked_fill(scores < 0, -torch.inf).softmax(1) @ values
    mean = float(mean_similarity(features[None]))
    assert mean == pytest.approx(float(similar.mean()), rel=1e-6)
    monkeypatch.setattr(guided, "ENTRIES", 25)  # two rows at a time
    torch.testing.assert_close(guided_attention(features, values, mean), expected)


def test_values_are_resized_by_heads_without_the_class_token():
    heads = torch.randn(2, 3, 7, 4, generator=torch.Generator().manual_seed(0))
    plain = values_on(heads, (2, 3), (2, 3))
    assert torch.equal(plain[1, 4], heads[1, :, 5].flatten())
    maps = plain.transpose(1, 2).unflatten(2, (2, 3))
    resized = values_on(heads, (2, 3), (5, 4))
    expected = F.interpolate(maps, size=(5, 4), mode="bilinear")
    torch.testing.assert_close(resized.transpose(1, 2).unflatten(2, (5, 4)), expected)


def test_a_picture_of_one_colour_gives_finite_tokens(segmenter_with, tiny_inputs):
    """All patches alike: the mean is 1, every score negative, and the released code gives NaN."""
    guide = GivenGuide(torch.ones(1, 16, 8, 8))
    tokens = segmenter_with(guide).features(torch.zeros(1, 3, 64, 64))
    assert torch.isfinite(tokens).all()


def test_windows_do_not_depend_on_each_other(segmenter_with, tiny_inputs):
    segmenter = segmenter_with(tiny_guide())
    pixels = tiny_inputs["image_64x64"]
    alone = segmenter.features(pixels)
    together = segmenter.features(torch.cat([pixels.flip(-1), pixels]))
    assert relative_error(together[1:], alone) < 1e-5


def test_base_attention_has_no_part_and_is_told(segmenter_with, tiny_inputs):
    segmenter = segmenter_with(tiny_guide())
    other = segmenter.recipe.but({"attention": {"terms": "vv", "residual": False}})
    pixels = tiny_inputs["image_64x64"]
    same = Segmenter(segmenter.backbone, other).features(pixels)
    assert torch.equal(same, segmenter.features(pixels))
    assert set(other.inert()) == {"attention.terms", "attention.residual"}


# -- refusals ----------------------------------------------------------------------------------------------------


def test_windows_of_broken_patches_name_the_remedy(segmenter_with, tiny_inputs):
    segmenter = segmenter_with(tiny_guide(), crop=60, stride=20)
    with pytest.raises(ImageError, match="60x60 pixels.*patches of 8x8.*windows.pad_to"):
        segmenter.logits(tiny_inputs["image_80x112"], tiny_inputs["text"])
    padded = segmenter_with(tiny_guide(), crop=60, stride=20, pad_to=8)
    assert padded.logits(tiny_inputs["image_80x112"], tiny_inputs["text"]).isfinite().all()


def test_a_guide_that_is_not_here_is_named_before_any_work(tiny_backbone):
    recipe = Recipe("proxy").but({"proxy_attention": {"guide": "/nowhere/dino.pth"}})
    with pytest.raises(ModelError, match="/nowhere/dino.pth"):
        Segmenter(tiny_backbone, recipe)
    with pytest.raises(ModelError, match="dino-vitb8"):
        Segmenter(tiny_backbone, recipe.but({"proxy_attention.guide": "dino-vitb9"}))


@pytest.mark.parametrize("other", ["rcs", "sfr", "gem", "local_mask", "stitch", "global_attention"])
def test_stages_of_the_same_block_are_refused(other):
    with pytest.raises(RecipeError, match="cannot work"):
        Recipe("x").but({"proxy_attention": True, other: True})


@pytest.mark.parametrize("values", [{"beta": 0.0}, {"gamma": -1.0}, {"kind": "first"}])
def test_bad_values_are_refused(values):
    with pytest.raises(RecipeError, match="proxy_attention"):
        ProxyAttentionSettings(**values)
