"""What a run on real CLIP and a real data set would settle: how many claims, with how many evaluations, in how many hours.

The hours are those of the image encoder alone: floating-point operations of its forwards, over a rate that a device
sustains. Reading, refinement, label maps and second models come on top; methods that cut the picture their own way are
counted as if they took windows.
"""

import math
from collections.abc import Sequence

import pandas as pd

from ovsslib.datasets.dataset import VIEWS
from ovsslib.errors import OvssError
from ovsslib.recipe import Recipe, parse_changes
from ovsslib.stages.windows import WindowSettings
from ovsslib.study.claims import EVERYTHING, runs_for

RATE = 10.0
"""Sustained TFLOP/s that the hours are counted with."""

IMAGE_SIZES = {
    "voc21": (375, 500), "voc20": (375, 500), "context60": (375, 500), "context59": (375, 500),
    "coco_stuff": (480, 640), "coco_stuff10k": (480, 640), "coco_object": (480, 640),
    "cityscapes": (1024, 2048), "ade20k": (512, 683),
}  # fmt: skip
"""Data set -> usual height and width of its images, pixels."""

_VIT_B16 = (12, 768, 16)  # blocks, width, patch size


def settling(datasets: Sequence[str] | None = None, model: str = "ViT-B/16") -> pd.DataFrame:
    """One row per data set that has claims which a run could settle.

    Args:
        datasets: some of `IMAGE_SIZES`; all of them if None.
        model: the claims' name of the model.

    Returns:
        Index data set; columns images, claims (numbers that would be settled), evaluations, forwards (of the image
        encoder per image, all evaluations together, where shared counted once), hours (at :data:`RATE`), profile,
        command.

    Raises:
        DataError: a data set without claims that this library can run.
    """
    rows = {}
    for name in IMAGE_SIZES if datasets is None else datasets:
        runs = runs_for(EVERYTHING, name)
        runs = runs[runs["model"] == model]
        passes = {}
        for recipe in _recipes(runs, name):
            key, forwards, operations = encoder_work(recipe, IMAGE_SIZES[name])
            passes[key] = (forwards, operations)
        images = VIEWS[name][3] or 0  # every data set of the claims has a number
        operations = sum(work for _, work in passes.values()) * images
        profile = f"openai-vitb16-{name}"
        rows[name] = {
            "images": images,
            "claims": len({id for ids in runs["claims"] for id in ids}),
            "evaluations": len(runs),
            "forwards": sum(forwards for forwards, _ in passes.values()),
            "hours": operations / (RATE * 1e12) / 3600,
            "profile": profile,
            "command": f"ovss reproduce {EVERYTHING} --dataset {name} --profile {profile}",
        }
    frame = pd.DataFrame.from_dict(rows, orient="index")
    frame.index.name = "data set"
    return frame


def _recipes(runs: pd.DataFrame, dataset: str) -> list[Recipe]:
    recipes = []
    for run in runs.itertuples():
        parts = [part for part in run.changes.split(";") if part.strip()]
        try:
            recipes.append(Recipe.named(run.recipe, dataset).but(parse_changes(parts)))
        except OvssError:  # a claimed setting that cannot be
            continue
    return recipes


def encoder_work(recipe: Recipe, image_size: tuple[int, int]) -> tuple[str, int, float]:
    """Work of the image encoder (ViT-B/16) for one image of (height, width) pixels.

    Returns:
        A key that recipes with the same forwards share, the number of forwards, and their floating-point operations
        (two per multiplication: 24 w^2 per token and block for the four products, 4 w n for the attention over n
        tokens).
    """
    settings: WindowSettings = recipe["windows"]
    scale = settings.short_side / min(image_size)
    scale = min(scale, settings.long_side / max(image_size))
    height, width = (max(1, round(side * scale)) for side in image_size)
    grid = settings.boxes(height, width)
    merging = next(iter(recipe.stages_with("merge")), None)
    views = 1 if merging is None else len(merging.use)
    blocks, size, patch = _VIT_B16
    tokens = 1 + math.prod(math.ceil(side / patch) for side in grid.size)
    per_window = blocks * tokens * (24 * size**2 + 4 * size * tokens)
    forwards = len(grid) * views
    key = f"{settings} {merging} {recipe.at('trunk')}"
    return key, forwards, float(per_window * forwards)
