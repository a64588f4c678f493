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
from ovsslib.scenes.drawing import Scene, SceneObject, contact_sheet, draw
from ovsslib.scenes.layout import NATIVE_SIZE

__all__ = [
    "CLASSES",
    "NATIVE_SIZE",
    "PARTS",
    "SPOKEN",
    "STUFF",
    "SYNONYMS",
    "THINGS",
    "VIEWS",
    "VIEW_CLASSES",
    "Scene",
    "SceneObject",
    "caption",
    "contact_sheet",
    "crops_of",
    "draw",
    "training_crops",
]
