"""PEARL's Procrustes attention against outputs recorded from its official code."""

import pytest
import torch
from conftest import relative_error, vectors

from ovsslib.errors import RecipeError
from ovsslib.recipe import Recipe
from ovsslib.segmenter import Segmenter
from ovsslib.stages.procrustes import (
    ProcrustesSettings,
    alignment,
    centred,
    cross_covariance,
    procrustes_weights,
)

PEARL = vectors("pearl")
VARIANTS = {
    "polar_kk0.08": {"alpha": 0.08},
    "polar_kk0.3": {"alpha": 0.3},
    "svd_kk0.08": {"alpha": 0.08, "solver": "svd"},
    "polar_nokk": {"alpha": 0.0},
    "vanilla_polar_kk0.08": {"alpha": 0.08},
}


def recipe_of(variant: str) -> Recipe:
    whole = variant.startswith("vanilla")
    attention = {"terms": "value", "residual": whole, "feed_forward": whole}
    return Recipe("pearl").but(attention=attention, procrustes=VARIANTS[variant])


@pytest.mark.parametrize("size", ["64x64", "80x112"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_tokens_agree_with_the_official_code(variant, size, tiny_backbone, tiny_inputs):
    segmenter = Segmenter(tiny_backbone, recipe_of(variant))
    tokens = segmenter.features(tiny_inputs[f"image_{size}"], keep_cls=True)
    assert relative_error(tokens, PEARL[f"tokens__{variant}__{size}"]) < 1e-4


def test_each_step_agrees_with_the_official_code(tiny_backbone, tiny_inputs):
    trunk = tiny_backbone.trunk(tiny_inputs["image_80x112"], taps={11})
    tap = trunk.taps[11]
    matrix = cross_covariance(*centred(tap.q, tap.k))
    assert relative_error(matrix[0], PEARL["cross_covariance__80x112"]) < 1e-4
    for solver in ("polar", "svd"):
        expected = PEARL[f"rotation__{solver}_kk0.08__80x112"]
        assert relative_error(alignment(matrix, solver)[0], expected) < 1e-4
    weights = procrustes_weights(tap.q, tap.k, tiny_backbone.scale, 0.08)
    assert relative_error(weights[0], PEARL["attention__polar_kk0.08__80x112"]) < 1e-4


def test_more_newton_schulz_steps_approach_the_rotation():
    matrix = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0))
    exact = alignment(matrix, "svd")
    torch.testing.assert_close(exact @ exact.mT, torch.eye(8).expand(3, 8, 8), atol=1e-5, rtol=0)
    far, near = (float((alignment(matrix, "polar", n) - exact).abs().max()) for n in (5, 40))
    assert near < 2e-2 < far


def test_batches_and_single_pictures_agree(tiny_backbone, tiny_inputs):
    picture = tiny_inputs["image_80x112"]
    both = torch.cat([picture, picture.flip(-1)])
    segmenter = Segmenter(tiny_backbone, recipe_of("polar_kk0.08"))
    together = segmenter.features(both)
    alone = torch.cat([segmenter.features(both[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_half_precision_stays_close():
    q, k = torch.randn(2, 4, 20, 16, generator=torch.Generator().manual_seed(1)).unbind(0)
    full = procrustes_weights(q, k, 0.25, 0.08)
    half = procrustes_weights(q.half(), k.half(), 0.25, 0.08)
    assert half.dtype == torch.float32
    assert relative_error(half, full) < 1e-2


def test_stages_behind_it_change_its_weights(tiny_backbone, tiny_inputs):
    recipe = recipe_of("polar_kk0.08")
    plain = Segmenter(tiny_backbone, recipe).features(tiny_inputs["image_64x64"])
    for changes in ({"rcs": True}, {"rcs": True, "local_mask": True}):
        other = Segmenter(tiny_backbone, recipe.but(changes)).features(tiny_inputs["image_64x64"])
        assert relative_error(other, plain) > 1e-3


def test_terms_of_the_recipe_are_said_to_be_inert_and_are(tiny_backbone, tiny_inputs):
    recipe = recipe_of("polar_kk0.08").but({"attention.terms": "kk", "attention.gaussian_std": 5.0})
    assert set(recipe.inert()) == {"attention.terms", "attention.gaussian_std"}
    pixels = tiny_inputs["image_64x64"]
    ours = Segmenter(tiny_backbone, recipe).features(pixels, keep_cls=True)
    assert relative_error(ours, PEARL["tokens__polar_kk0.08__64x64"]) < 1e-4
    assert not recipe.but(middle_layers=True).inert()


def test_what_it_cannot_go_with_is_refused():
    with pytest.raises(RecipeError, match="sfr"):
        Recipe("x").but({"sfr": True, "procrustes": True})
    with pytest.raises(RecipeError, match="procrustes.alpha=-1"):
        ProcrustesSettings(alpha=-1.0)
    with pytest.raises(RecipeError, match="procrustes.iterations=0"):
        ProcrustesSettings(iterations=0)
    unused = Recipe("x").but(procrustes={"solver": "svd", "iterations": 9})
    assert "procrustes.iterations" in unused.inert()
