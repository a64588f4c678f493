"""A recipe: everything that decides what a segmenter computes, and nothing else.

A recipe is a set of *stages*, each with its own frozen settings. A stage that is listed is on, a stage that
is not listed is off. Stages register here under a name and at a named point of the flow (`POINTS`), so this
room knows no method by itself. Registering checks a stage's hooks against its point (their typed forms are in
`ovsslib.stages.hooks`). Combinations that cannot work are refused when the recipe is made.
"""

from ovsslib.recipe.points import ALWAYS_ON, CAPABILITIES, FURTHER_METHODS, POINTS
from ovsslib.recipe.recipe import Recipe, parse_changes, recipe_names, recipes
from ovsslib.recipe.registry import StageInfo, make_settings, stage, stage_info, stages

__all__ = [
    "ALWAYS_ON", "CAPABILITIES", "FURTHER_METHODS", "POINTS", "Recipe", "StageInfo", "make_settings",
    "parse_changes", "recipe_names", "recipes", "stage", "stage_info", "stages",
]  # fmt: skip
