"""What an exported folder holds: the names of its files, and its description `recipe.json`."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import yaml

from ovsslib.clip.backbone import Backbone
from ovsslib.errors import DataError
from ovsslib.recipe import Recipe

FORMAT = 1
DESCRIPTION, VISION, TEXT = "recipe.json", "vision.onnx", "text.onnx"
MERGES, VOCABULARY = "merges.txt", "vocab.json"
KNOWN_TOKENS = "known_tokens.json"
DATA = ".data"
FILES = {DESCRIPTION, VISION, TEXT, VISION + DATA, TEXT + DATA, MERGES, VOCABULARY, KNOWN_TOKENS}
GRAPH_POINTS = ("trunk", "attention", "picture")
"""Points of the flow whose stages are inside the vision graph."""


def is_exported(folder: Any) -> bool:
    """Whether a path is a folder that `export_onnx` wrote."""
    try:
        return (Path(folder) / DESCRIPTION).is_file()
    except (OSError, ValueError):
        return False


def graph_settings(recipe: Recipe) -> dict[str, Any]:
    """Everything of a recipe that the vision graph computes, as plain values (JSON)."""
    values: dict[str, Any] = {"positions": recipe["windows"].positions}
    for point in GRAPH_POINTS:
        for name, settings in recipe.at(point):
            values[name] = dataclasses.asdict(settings)
    return json.loads(json.dumps(values))


def description(
    backbone: Backbone, recipe: Recipe, weights: str, switches: bool, version: str
) -> dict[str, Any]:
    """Content of `recipe.json`: all that a runtime needs besides the graphs, in plain values."""
    strategy = recipe["text"].strategy()
    mean, std = backbone.normalisation
    return {
        "format": FORMAT,
        "made_by": f"ovsslib {version}",
        "recipe": yaml.safe_load(recipe.to_yaml()),
        "graph": graph_settings(recipe),
        "weights": weights,
        "switches": switches,
        "model": {
            "name": backbone.name,
            "pretrained": backbone.pretrained,
            "weights_hash": backbone.weights_hash,
            "dim": backbone.dim,
            "width": backbone.width,
            "heads": backbone.heads,
            "layers": backbone.layers,
            "patch_size": backbone.patch_size,
            "base_grid": list(backbone.base_grid),
            "image_size": list(backbone.image_size),
            "context_length": backbone.context_length,
            "logit_scale": backbone.logit_scale,
            "configuration": backbone.configuration,
        },
        # pixels are RGB on the 0..255 scale: (value - mean) / std
        "pixels": {"mean": list(mean), "std": list(std)},
        "prompts": {
            "thing": list(strategy.thing),
            "stuff": list(strategy.stuff),
            "material": list(strategy.material),
            "normalise_each": recipe["text"].normalise_each,
        },
    }


def read_description(folder: Path) -> dict[str, Any]:
    """`recipe.json` of a folder. Raises DataError for a damaged one, or one of another format."""
    try:
        content = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"cannot read {folder / DESCRIPTION} ({error}); export the folder again: ovss export onnx"
        ) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        version = content.get("format") if isinstance(content, dict) else None
        raise DataError(
            f"{folder / DESCRIPTION} has format {version!r}, this library reads {FORMAT}; export the folder again: "
            "ovss export onnx"
        )
    missing = [
        f"{key}.{part}" if part else key for key, part in _NEEDED if not _holds(content, key, part)
    ]
    if missing:
        raise DataError(
            f"{folder / DESCRIPTION} lacks {', '.join(missing)}; export the folder again: ovss export onnx"
        )
    return content


_PARTS_OF_MODEL = (
    *(
        "name",
        "pretrained",
        "dim",
        "width",
        "heads",
        "layers",
        "patch_size",
        "base_grid",
        "image_size",
    ),
    *("context_length", "logit_scale", "configuration"),
)
_NEEDED = (
    *(("model", part) for part in _PARTS_OF_MODEL),
    *(("pixels", "mean"), ("pixels", "std"), ("graph", ""), ("recipe", "name")),
    *(("weights", ""), ("switches", "")),
)
"""Entries of a description that are read, with their parts."""


def _holds(content: dict[str, Any], key: str, part: str) -> bool:
    if not part:
        return key in content
    return isinstance(content.get(key), dict) and part in content[key]
