"""Training-free open-vocabulary semantic segmentation with CLIP: every method from one recipe."""

from ovsslib import prompts, stages  # noqa: F401 - importing them registers the stages
from ovsslib.recipe import Recipe, recipes

__all__ = ["Recipe", "recipes", "stages"]
