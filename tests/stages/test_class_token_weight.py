"""CLIPtrase's reweighting by the class token."""

import numpy as np
import torch
from torch.nn import functional as F

from ovsslib.recipe import Recipe
from ovsslib.segmenter import Segmenter
from ovsslib.stages.windows import Stitched


def test_patch_logits_are_multiplied_by_the_class_tokens(tiny_backbone, tiny_inputs):
    pixels, text = tiny_inputs["image_80x112"], tiny_inputs["text"]
    recipe = Recipe("weight").but({"windows.crop": 0})
    segmenter = Segmenter(tiny_backbone, recipe.but(class_token_weight=True))
    tokens = F.normalize(segmenter.features(pixels, keep_cls=True), dim=-1)[0] @ text.T
    weighted = (tokens[1:] * tokens[0]).T.reshape(1, 6, 5, 7)
    grid = recipe["windows"].boxes(80, 112)
    torch.testing.assert_close(
        segmenter.logits(pixels, text)[0],
        Stitched(weighted, grid, (80, 112)).full(),
        atol=1e-6,
        rtol=1e-4,
    )


def test_voc20_alone_uses_it_and_it_changes_masks(tiny_backbone):
    assert "class_token_weight" in Recipe.named("cliptrase", "voc20")
    assert "class_token_weight" not in Recipe.named("cliptrase", "voc21")
    image = np.random.default_rng(1).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    recipe = Recipe.named("clip").but({"windows.short_side": 64})
    masks = [
        Segmenter(tiny_backbone, recipe.but(class_token_weight=on))(
            image, ["cat", "dog", "sky"]
        ).mask
        for on in (False, True)
    ]
    assert (masks[0] != masks[1]).any()
