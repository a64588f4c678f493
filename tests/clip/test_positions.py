"""How the positional table is resized: the rules of the released codes, and where each one applies."""

import numpy as np
import pytest
import torch
from conftest import relative_error, vectors
from PIL import Image

from ovsslib.clip.backbone import POSITIONS
from ovsslib.errors import ModelError, RecipeError
from ovsslib.recipe import Recipe
from ovsslib.segmenter import Segmenter

PICTURE = torch.randn(1, 3, 80, 112, generator=torch.Generator().manual_seed(5))


def test_bilinear_is_the_recorded_table_of_clip_surgery(tiny_backbone):
    expected = vectors("clip-surgery")["pos_96x96"]
    assert relative_error(tiny_backbone.positions((6, 6), "bilinear"), expected) < 1e-6


@pytest.mark.parametrize("grid", [(5, 7), (3, 2), (9, 4)])
def test_antialiased_is_pillows_bicubic(grid, tiny_backbone):
    """Pillow's filter is the one that PyTorch's antialiasing copies."""
    table = tiny_backbone.positions((4, 4), "keep")
    channels = table[1:].T.reshape(-1, 4, 4).numpy()
    resized = [
        np.asarray(Image.fromarray(c).resize(grid[::-1], Image.Resampling.BICUBIC))
        for c in channels
    ]
    expected = torch.from_numpy(np.stack(resized)).flatten(1).T
    ours = tiny_backbone.positions(grid, "size-antialias")
    assert relative_error(ours[1:], expected) < 1e-5
    assert torch.equal(ours[0], table[0])


def test_rules_differ_where_the_grid_does_and_nowhere_else(tiny_backbone):
    table = tiny_backbone.positions((4, 4), "keep")
    made = {how: tiny_backbone.positions((5, 7), how) for how in POSITIONS}
    assert torch.equal(made["bilinear-half"], made["bilinear"].half().float())
    assert torch.equal(made["bilinear-half-always"], made["bilinear-half"])
    distinct = ("sclip", "size", "size-antialias", "bilinear", "bilinear-half")
    for index, one in enumerate(distinct):
        assert torch.equal(made[one][0], table[0]) or one == "bilinear-half"
        for other in distinct[:index]:
            assert not torch.equal(made[one], made[other]), (one, other)
    for how in ("size", "size-antialias", "bilinear"):
        torch.testing.assert_close(tiny_backbone.positions((4, 4), how), table)


def test_own_size_keeps_the_table_unless_it_is_always_rounded(tiny_backbone):
    native = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(6))
    kept = tiny_backbone.embed(native)[0]
    for how in POSITIONS:
        same = torch.equal(tiny_backbone.embed(native, how)[0], kept)
        assert same == (how != "bilinear-half-always"), how


def test_a_table_of_one_rule_is_not_kept_for_another(tiny_backbone):
    first = {how: tiny_backbone.trunk(PICTURE, positions=how).tokens for how in POSITIONS}
    for how in reversed(POSITIONS):
        assert torch.equal(tiny_backbone.trunk(PICTURE, positions=how).tokens, first[how])
    assert not torch.equal(first["sclip"], first["size"])
    assert torch.equal(first["sclip"], tiny_backbone.trunk(PICTURE).tokens)


def test_the_recipe_decides(tiny_backbone, tiny_inputs):
    pixels, text = tiny_inputs["image_80x112"], tiny_inputs["text"]
    recipe = Recipe.named("gem")
    assert recipe["windows"].positions == "size-antialias"
    ours = Segmenter(tiny_backbone, recipe)
    old = Segmenter(tiny_backbone, recipe.but({"windows.positions": "sclip"}))
    assert not torch.equal(ours.features(pixels), old.features(pixels))
    assert not torch.equal(ours.logits(pixels, text), old.logits(pixels, text))
    assert ours.trunk_key() != old.trunk_key()


def test_unknown_rules_are_refused(tiny_backbone):
    with pytest.raises(ModelError, match="positions='nearest'"):
        tiny_backbone.positions((5, 7), "nearest")
    with pytest.raises(ModelError, match="positions='nearest'"):
        tiny_backbone.embed(torch.zeros(1, 3, 64, 64), "nearest")
    with pytest.raises(RecipeError, match="windows.positions"):
        Recipe("odd").but({"windows.positions": "nearest"})
