"""SegEarth-OV's share of the class token."""

import numpy as np
import pytest
import torch.nn.functional as F
from conftest import relative_error

from ovsslib.errors import RecipeError
from ovsslib.recipe import Recipe
from ovsslib.segmenter import Segmenter
from ovsslib.stages.windows import Stitched

ATTENTION = {"terms": "qq+kk+vv", "residual": False, "feed_forward": False}


@pytest.mark.parametrize("weight", [-0.3, 0.5])
def test_logits_are_shifted_by_the_class_token_of_the_same_block(
    weight, tiny_backbone, tiny_inputs
):
    """As the released code reads: its class token goes through the changed block too."""
    pixels, text = tiny_inputs["image_80x112"], tiny_inputs["text"]
    recipe = Recipe("segearth").but(
        {"windows.crop": 0, "attention": ATTENTION, "class_token_bias": {"weight": weight}}
    )
    segmenter = Segmenter(tiny_backbone, recipe)
    trunk = tiny_backbone.trunk(pixels, {11})
    tap = trunk.taps[11]
    weights = sum((x @ x.transpose(-2, -1) * 0.25).softmax(-1) for x in (tap.q, tap.k, tap.v))
    tokens = tiny_backbone.head(tiny_backbone.join(11, weights @ tap.v))
    assert relative_error(segmenter.features(pixels, keep_cls=True), tokens) < 1e-5
    cosines = F.normalize(tokens[0], dim=-1) @ text.T
    expected = (cosines[1:] + weight * cosines[:1]).T.reshape(1, 6, 5, 7)
    stitched = Stitched(expected, recipe["windows"].boxes(80, 112), (80, 112)).full()
    assert relative_error(segmenter.logits(pixels, text)[0], stitched) < 1e-5


def test_every_window_has_its_own_class_token(tiny_backbone, tiny_inputs):
    pixels, text = tiny_inputs["image_80x112"], tiny_inputs["text"]
    base = Recipe("x").but({"windows": {"crop": 64, "stride": 48}})
    whole = Recipe("x").but({"windows.crop": 0})
    shift = [
        Segmenter(tiny_backbone, r.but(class_token_bias=True)).logits(pixels, text)
        - Segmenter(tiny_backbone, r).logits(pixels, text)
        for r in (base, whole)
    ]
    assert (shift[0][0].flatten(1).std(1) > 1e-4).all() and (
        shift[1][0].flatten(1).std(1) < 1e-6
    ).all()


def test_a_stitched_picture_uses_clips_class_token_of_the_picture(tiny_backbone, tiny_inputs):
    """Windows lose their class tokens in the stitch; the picture's own stands in."""
    pixels, text = tiny_inputs["image_80x112"], tiny_inputs["text"]
    base = Recipe("x").but({"windows": {"crop": 64, "stride": 48}, "stitch": True})
    plain, shifted = (
        Segmenter(tiny_backbone, r).logits(pixels, text)
        for r in (base, base.but(class_token_bias=True))
    )
    token = F.normalize(tiny_backbone.encode_image(pixels), dim=-1)
    expected = plain - 0.3 * (text @ token[0])[None, :, None, None]
    assert relative_error(shifted, expected) < 1e-4


def test_recipe_changes_masks_and_a_share_of_zero_is_inert(tiny_backbone):
    image = np.random.default_rng(1).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    recipe = Recipe.named("segearth-ov").but({"windows.short_side": 64})
    words = ["cat", "dog", "sky"]
    masks = [
        Segmenter(tiny_backbone, r)(image, words).mask
        for r in (recipe, recipe.but(class_token_bias=False))
    ]
    assert (masks[0] != masks[1]).any()
    assert "class_token_bias" in recipe.but({"class_token_bias.weight": 0.0}).inert()
    assert recipe["labels"].logit_scale == 50 and recipe["class_token_bias"].weight == -0.3


def test_logits_made_by_another_stage_have_no_class_token():
    settings = Recipe("x").but(class_token_bias=True)["class_token_bias"]

    class Fake:
        def stages_with(self, method):
            return [object()] if method == "picture_logits" else []

    assert "no window has a class token" in settings.refuse(Fake())
    with pytest.raises(RecipeError):
        Recipe("x").but({"class_token_bias.weight": "much"})
