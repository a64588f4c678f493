"""Training-free open-vocabulary semantic segmentation with CLIP: every method from one recipe.

    import ovsslib
    segment = ovsslib.load("naclip")
    result = segment("photo.jpg", ["person", "dog", "grass"])
"""

from ovsslib import _torchvision  # noqa: F401, I001 - must come before anything that imports torchvision
from ovsslib import prompts, stages
from ovsslib.backbone import Backbone
from ovsslib.evaluation.datasets import open_dataset
from ovsslib.evaluation.engine import evaluate
from ovsslib.evaluation.results import measure
from ovsslib.loading import load_backbone
from ovsslib.recipe import Recipe, recipes
from ovsslib.segmentation import Segmentation
from ovsslib.segmenter import Segmenter, load
from ovsslib.vocabulary import Vocabulary

__version__ = "0.1.0"
__all__ = [
    "Backbone", "Recipe", "Segmentation", "Segmenter", "Vocabulary",
    "evaluate", "load", "load_backbone", "measure", "open_dataset", "prompts", "recipes", "stages",
]
