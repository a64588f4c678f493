"""ITACLIP's middle layers: the mix, its limits, layers a model lacks."""

import pytest
import torch
from conftest import relative_error

from ovsslib.errors import RecipeError
from ovsslib.recipe import Recipe
from ovsslib.segmenter import Segmenter
from ovsslib.stages.middle_layers import MiddleLayersSettings


def weights_of(backbone, pixels, changes):
    return Segmenter(backbone, Recipe("mix").but(changes)).attention_of(pixels)


def test_mix_is_the_mean_of_last_and_middle(tiny_backbone, tiny_inputs):
    pixels = tiny_inputs["image_80x112"]
    mixed = weights_of(
        tiny_backbone, pixels, {"middle_layers": {"layers": (7, 8, 10), "weight": 0.3}}
    )
    trunk = tiny_backbone.trunk(pixels, taps={6, 7, 9, 11})
    attention = Recipe("mix")["attention"]
    by_layer = {
        i: attention.weights(tap, (5, 7), tiny_backbone.scale) for i, tap in trunk.taps.items()
    }
    expected = 0.7 * by_layer[11] + 0.1 * (by_layer[6] + by_layer[7] + by_layer[9])
    assert relative_error(mixed, expected) < 1e-5


def test_weight_zero_leaves_the_last_block_alone(tiny_backbone, tiny_inputs):
    pixels = tiny_inputs["image_64x64"]
    plain = weights_of(tiny_backbone, pixels, {})
    torch.testing.assert_close(
        weights_of(tiny_backbone, pixels, {"middle_layers": {"weight": 0.0}}), plain
    )
    full = weights_of(tiny_backbone, pixels, {"middle_layers": {"layers": (3,), "weight": 1.0}})
    assert relative_error(full, plain) > 1e-2


@pytest.mark.parametrize(
    "values",
    [{"layers": ()}, {"layers": (0, 3)}, {"layers": (7, 7)}, {"weight": 1.5}, {"weight": -0.1}],
)
def test_bad_values_are_refused(values):
    with pytest.raises(RecipeError, match="middle_layers"):
        MiddleLayersSettings(**values)


def test_layers_the_model_lacks_and_identity_attention_are_refused(tiny_backbone):
    with pytest.raises(RecipeError, match="12 blocks"):
        Segmenter(tiny_backbone, Recipe("mix").but(middle_layers={"layers": (7, 12)}))
    with pytest.raises(RecipeError, match="nothing to mix"):
        Recipe("mix").but({"attention.terms": "value", "middle_layers": True})
