"""Memory verdicts for an architecture without weights."""

import pytest
from conftest import TINY_CONFIG

from ovsslib.errors import ModelError
from ovsslib.recipe import Recipe
from ovsslib.study.budget import budget_table, unweighted_backbone


def test_more_words_and_pixels_need_more_memory_until_the_budget_ends():
    backbone = unweighted_backbone(TINY_CONFIG)
    assert "random" in backbone.name and backbone.weights_hash == ""
    recipes = {"plain": Recipe.named("sclip"), "crf": Recipe.named("sclip").but(densecrf=True)}
    table = budget_table(backbone, recipes, [(240, 320, 20), (480, 640, 20), (480, 640, 200)], 1.0)
    assert list(table["recipe"].unique()) == ["plain", "crf"] and len(table) == 6
    assert (table["method"] == "estimated").all()
    for _, rows in table.groupby("recipe"):
        assert rows["peak_gb"].is_monotonic_increasing
    assert (table["fits"] == (table["peak_gb"] <= 1.0)).all()
    assert (table["peak_gb"] - table["weights_gb"] - table["working_gb"]).abs().max() < 1e-9


def test_unknown_architectures_are_refused():
    with pytest.raises(ModelError, match="ViT-Z"):
        unweighted_backbone("ViT-Z-99")
