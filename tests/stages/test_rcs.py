"""ResCLIP's RCS: the mixed weights, bases, bad values. Parity with the official code: test_methods.py."""

import pytest
import torch
from conftest import relative_error

from ovsslib.errors import RecipeError
from ovsslib.recipe import Recipe
from ovsslib.segmenter import Segmenter
from ovsslib.stages.rcs import RcsSettings


def test_weights_are_the_published_mix(tiny_backbone, tiny_inputs):
    pixels = tiny_inputs["image_80x112"]
    recipe = Recipe("mix").but(
        attention={"terms": "kk", "gaussian_std": 5.0},
        rcs={"layers": (6, 9), "tau": 1.5, "lam": 0.25},
    )
    weights = Segmenter(tiny_backbone, recipe).attention_of(pixels)
    trunk = tiny_backbone.trunk(pixels, taps={5, 8, 11})
    own = recipe["attention"].weights(trunk.taps[11], (5, 7), tiny_backbone.scale)
    cross = [
        torch.softmax(trunk.taps[i].q @ trunk.taps[i].k.mT * tiny_backbone.scale, dim=-1)
        for i in (5, 8)
    ]
    expected = 1.5 * (0.75 * own + 0.25 * (cross[0] + cross[1]) / 2)
    assert relative_error(weights, expected) < 1e-5
    torch.testing.assert_close(weights.sum(-1), torch.full(weights.shape[:-1], 1.5))


def test_it_gives_identity_attention_something_to_mix(tiny_backbone, tiny_inputs):
    value = Recipe("value").but({"attention.terms": "value"})
    maps = [
        Segmenter(tiny_backbone, recipe).features(tiny_inputs["image_64x64"])
        for recipe in (value, value.but(rcs=True))
    ]
    assert relative_error(maps[1], maps[0]) > 1e-2


@pytest.mark.parametrize(
    "values", [{"layers": ()}, {"layers": (0,)}, {"layers": (6, 6)}, {"lam": 1.1}, {"tau": 0.0}]
)
def test_bad_values_are_refused(values):
    with pytest.raises(RecipeError, match="rcs"):
        RcsSettings(**values)


def test_layers_the_model_lacks_are_refused(tiny_backbone):
    with pytest.raises(RecipeError, match="12 blocks"):
        Segmenter(tiny_backbone, Recipe("mix").but(rcs={"layers": (6, 12)}))
