"""Attention maps of any recipe, layer, head and patch."""

import numpy as np
import pytest
import torch

from ovsslib.book.figures.attention import attention_map, plot_attention
from ovsslib.errors import RecipeError
from ovsslib.recipe import Recipe, recipe_names
from ovsslib.segmenter import Segmenter

IMAGE = np.random.default_rng(0).integers(0, 256, (70, 100, 3), dtype=np.uint8)
SMALL = {"windows.short_side": 80}


def segmenter_of(backbone, name):
    recipe = Recipe.named(name).but(SMALL)
    if "sink_denoise" in recipe:  # the published channels are for OpenAI's weights alone
        recipe = recipe.but({"sink_denoise": {"channels": (0, 5), "sigma": 1.5}})
    return Segmenter(backbone, recipe)


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_has_a_map_or_says_why_not(name, tiny_backbone, second_models):
    segmenter = segmenter_of(tiny_backbone, name)
    if segmenter.recipe.has("replaces_block"):
        with pytest.raises(RecipeError, match="one attention matrix"):
            attention_map(segmenter, IMAGE, (2, 3))
        return
    found = attention_map(segmenter, IMAGE, (2, 3))
    assert found.shape == (5, 7) and found.dtype == np.float32
    assert found.min() >= 0 and np.isfinite(found).all() and found.sum() > 0


def test_value_attention_sees_the_patch_alone(tiny_backbone):
    found = attention_map(segmenter_of(tiny_backbone, "maskclip"), IMAGE, (4, 1))
    assert found[4, 1] == 1 and found.sum() == 1


def test_maps_are_the_weights_of_the_block(tiny_backbone):
    segmenter = segmenter_of(tiny_backbone, "clip")
    pixels = segmenter.prepare(IMAGE)[None]
    taps = tiny_backbone.trunk(pixels, taps={4, 11}).taps
    for layer, terms, tap in ((5, None, taps[4]), (5, "vv", taps[4]), (None, None, taps[11])):
        left, right = (tap.v, tap.v) if terms == "vv" else (tap.q, tap.k)
        weights = torch.softmax(left @ right.mT * tiny_backbone.scale, -1)[0, :, 1 + 3 * 7 + 2, 1:]
        for head in (None, 0, 3):
            expected = weights.mean(0) if head is None else weights[head]
            found = attention_map(segmenter, IMAGE, (3, 2), layer, head, terms)
            np.testing.assert_allclose(found.flatten(), expected.numpy(), rtol=1e-4, atol=1e-7)


def test_class_token_takes_its_share(tiny_backbone):
    found = attention_map(segmenter_of(tiny_backbone, "sclip"), IMAGE, (0, 0))
    assert found.sum() < 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patch": (5, 0)}, "5 rows and 7 columns"),
        ({"patch": (0, -1)}, "5 rows and 7 columns"),
        ({"patch": (0, 0), "head": 4}, "heads 0 to 3"),
        ({"patch": (0, 0), "layer": 13}, "blocks 1 to 12"),
        ({"patch": (0, 0), "layer": 0}, "blocks 1 to 12"),
        ({"patch": (0, 0), "layer": 3, "terms": "qx"}, "attention.terms='qx'"),
        ({"patch": (0, 0), "layer": 3, "terms": "neighbour"}, "gaussian_std"),
    ],
)
def test_what_does_not_exist_is_named(arguments, message, tiny_backbone):
    with pytest.raises(RecipeError, match=message):
        attention_map(segmenter_of(tiny_backbone, "sclip"), IMAGE, **arguments)


def test_figure_has_a_panel_per_segmenter(tiny_backbone):
    segmenters = {name: segmenter_of(tiny_backbone, name) for name in ("clip", "sclip", "naclip")}
    figure = plot_attention(segmenters, IMAGE, (2, 2))
    titles = [axis.get_title() for axis in figure.axes]
    assert all(any(name in title for title in titles) for name in segmenters)
