"""Scenes: a world of captioned pictures with exact masks, drawn from a seed."""

from ovsslib.scenes.captions import caption
from ovsslib.scenes.classes import (
    CLASSES,
    PARTS,
    SPOKEN,
    STUFF,
    SYNONYMS,
    THINGS,
    VIEW_CLASSES,
    VIEWS,
)
from ovsslib.scenes.crops import crops_of, training_crops
from ovsslib.scenes.dataset_files import SPLIT_SEEDS, SplitReport, make_test_split, write_split
from ovsslib.scenes.drawing import Scene, SceneObject, contact_sheet, draw, label_colours
from ovsslib.scenes.layout import NATIVE_SIZE

__all__ = [
    "CLASSES",
    "NATIVE_SIZE",
    "PARTS",
    "SPLIT_SEEDS",
    "SPOKEN",
    "STUFF",
    "SYNONYMS",
    "THINGS",
    "VIEWS",
    "VIEW_CLASSES",
    "Scene",
    "SceneObject",
    "SplitReport",
    "caption",
    "contact_sheet",
    "crops_of",
    "draw",
    "label_colours",
    "make_test_split",
    "training_crops",
    "write_split",
]
