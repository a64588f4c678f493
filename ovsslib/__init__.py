"""Training-free open-vocabulary semantic segmentation with CLIP: every method from one recipe.

import ovsslib
segment = ovsslib.load("naclip")
result = segment("photo.jpg", ["person", "dog", "grass"])
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ovsslib import (
    _torchvision,  # noqa: F401 - must come before anything that imports torchvision
    stages,
)
from ovsslib.clip.backbone import Backbone
from ovsslib.clip.loading import load_backbone
from ovsslib.images.segmentation import Segmentation
from ovsslib.recipe import Recipe, recipes
from ovsslib.segmenter import Segmenter, load
from ovsslib.text import prompts
from ovsslib.text.vocabulary import Vocabulary

if TYPE_CHECKING:
    from ovsslib.datasets.dataset import open_dataset
    from ovsslib.evaluation.engine import evaluate
    from ovsslib.evaluation.results import measure

__version__ = "0.1.0"
__all__ = [
    "Backbone", "Recipe", "Segmentation", "Segmenter", "Vocabulary",
    "evaluate", "load", "load_backbone", "measure", "open_dataset", "prompts", "recipes", "stages",
]  # fmt: skip

# Public names that segmenting a picture does not need, and where they live.
_LATE = {
    "open_dataset": "ovsslib.datasets.dataset",
    "evaluate": "ovsslib.evaluation.engine",
    "measure": "ovsslib.evaluation.results",
}
sys.modules["ovsslib.prompts"] = (
    prompts  # `from ovsslib.prompts import ...` as well as `ovsslib.prompts`
)


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module 'ovsslib' has no attribute {name!r}")
    value = getattr(import_module(_LATE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATE})
