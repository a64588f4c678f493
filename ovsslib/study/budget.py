"""Which recipes fit a card: memory verdicts for a model of any size, without its weights (thesis, section 3.7.3)."""

from collections.abc import Iterable, Mapping
from typing import Any

import open_clip
import pandas as pd

from ovsslib.clip.backbone import Backbone
from ovsslib.clip.loading import build_model
from ovsslib.errors import ModelError
from ovsslib.recipe import Recipe
from ovsslib.segmenter import Segmenter
from ovsslib.study.cost import BUDGET_GB, fits


def unweighted_backbone(model: str | Mapping[str, Any]) -> Backbone:
    """A CLIP of an open_clip architecture with random weights: for time and memory, never for accuracy.

    Raises ModelError for an unknown name or a mapping that is not a configuration.
    """
    name, config = (
        ("custom", model)
        if isinstance(model, Mapping)
        else (model, open_clip.get_model_config(model))
    )
    if config is None:
        raise ModelError(f"unknown model {name!r}; open_clip.list_models() lists the architectures")
    return Backbone(
        build_model(config, quick_gelu="quickgelu" in name), name=f"{name}, random weights",
        pretrained="random", weights_hash="",
    )  # fmt: skip


def budget_table(
    backbone: Backbone,
    recipes: Mapping[str, Recipe],
    pictures: Iterable[tuple[int, int, int]],
    budget_gb: float = BUDGET_GB,
    measure: bool = False,
) -> pd.DataFrame:
    """Memory of recipes on pictures of several sizes, against a budget.

    Args:
        recipes: by the name that the table prints.
        pictures: (height, width, number of queries) each.
        budget_gb, measure: as :func:`ovsslib.study.cost.fits` takes them; without measuring it estimates.

    Returns:
        One row per recipe and picture: recipe, picture ("480x640"), queries, weights_gb, working_gb, peak_gb (GiB),
        fits (bool), method.
    """
    rows = []
    for title, recipe in recipes.items():
        segmenter = Segmenter(backbone, recipe)
        for height, width, queries in pictures:
            memory = fits(segmenter, (height, width), queries, budget_gb, measure)
            rows.append(
                {"recipe": title, "picture": memory.picture, "queries": queries, "weights_gb": memory.weights_gb,
                 "working_gb": memory.working_gb, "peak_gb": memory.peak_gb, "fits": memory.fits,
                 "method": memory.method}
            )  # fmt: skip
    return pd.DataFrame(rows)
