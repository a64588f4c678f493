"""GEM's stream: accumulation over blocks, per-picture temperature, what it cannot go with."""

import pytest
import torch
from conftest import relative_error
from torch.nn import functional as F

from ovsslib.errors import RecipeError
from ovsslib.recipe import Recipe
from ovsslib.segmenter import Segmenter
from ovsslib.stages.gem import GemSettings


def attention_by_hand(backbone, index, tokens, iterations):
    """One block of GEM, written out for one picture."""
    tap = backbone.project(index, tokens)
    tau = backbone.scale * tap.normed.norm(dim=-1).mean()
    paths = []
    for p in (tap.v, tap.k, tap.q):
        for _ in range(iterations):
            p = F.normalize(p, dim=-1)
            p = torch.softmax(tau * p @ p.mT, -1) @ p
        p = F.normalize(p, dim=-1)
        paths.append(torch.softmax(tau * p @ p.mT, -1) @ tap.v)
    mixed = sum(paths) / 3
    return backbone.blocks[index].attn.out_proj(mixed.transpose(1, 2).flatten(2))


@pytest.mark.parametrize(("depth", "iterations"), [(6, 1), (2, 0), (12, 2)])
def test_stream_starts_at_the_first_block_and_adds_up(
    depth, iterations, tiny_backbone, tiny_inputs
):
    pixels = tiny_inputs["image_80x112"]
    recipe = Recipe("gem").but(gem={"depth": depth, "iterations": iterations})
    ours = Segmenter(tiny_backbone, recipe).features(pixels, keep_cls=True)
    inputs = tiny_backbone.trunk(pixels, inputs=range(12)).inputs
    stream = inputs[12 - depth]
    for index in range(12 - depth, 12):
        stream = stream + attention_by_hand(tiny_backbone, index, inputs[index], iterations)
    assert relative_error(ours, tiny_backbone.head(stream)) < 1e-4


def test_other_changes_of_the_attention_are_refused(tiny_backbone, tiny_inputs):
    for name in ("middle_layers", "rcs", "sfr", "local_mask"):
        with pytest.raises(RecipeError, match=name):
            Recipe("gem").but(gem=True, **{name: True})
    with pytest.raises(RecipeError, match="12 blocks"):
        Segmenter(tiny_backbone, Recipe("gem").but(gem={"depth": 13}))
    with pytest.raises(RecipeError, match="one attention matrix"):
        Segmenter(tiny_backbone, "gem").attention_of(tiny_inputs["image_64x64"])


@pytest.mark.parametrize("values", [{"depth": 0}, {"iterations": -1}])
def test_bad_values_are_refused(values):
    with pytest.raises(RecipeError, match="gem"):
        GemSettings(**values)
