"""The worked example of CONTRIBUTING.md runs as it stands."""

import re
from pathlib import Path

import pytest
import torch

from ovsslib.errors import RecipeError
from ovsslib.recipe import Recipe, registry
from ovsslib.segmenter import Segmenter

PAGE = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")


def block(title: str) -> str:
    """Content of the fenced block whose first line ends in `title`."""
    return re.search(rf"```\w+ {title}\n(.*?)```", PAGE, re.DOTALL).group(1)


@pytest.fixture
def example(monkeypatch):
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    names = {"__name__": "ovsslib.stages.debias"}
    exec(compile(block("stage"), "debias.py", "exec"), names)  # noqa: S102 - our own page
    return names


def test_the_recipe_of_the_example_runs(example, tiny_backbone, tiny_inputs):
    recipe = Recipe.from_yaml(block("recipe"))
    assert recipe["debias"].strength == 0.5
    text = torch.nn.functional.normalize(tiny_inputs["text"], dim=1)
    pixels = tiny_inputs["image_80x112"]
    changed = Segmenter(tiny_backbone, recipe).logits(pixels, text)
    plain = Segmenter(tiny_backbone, recipe.but(debias=False)).logits(pixels, text)
    assert changed.shape == plain.shape
    assert not torch.allclose(changed, plain)


def test_the_tests_of_the_example_pass(example):
    names = dict(example)
    exec(compile(block("test"), "test_debias.py", "exec"), names)  # noqa: S102 - our own page
    tests = [value for key, value in names.items() if key.startswith("test_")]
    assert len(tests) == 2
    for test in tests:
        test()


def test_settings_out_of_range_are_refused(example):
    with pytest.raises(RecipeError, match=r"debias.strength=2"):
        Recipe("x").but(debias={"strength": 2})
