"""All methods in one table: what was published, what is measured, by the kind of help each takes."""

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from ovsslib.evaluation.results import Results
from ovsslib.recipe import Recipe, recipe_names, stages
from ovsslib.study.claims import configuration_key, load_claims
from ovsslib.study.rank_agreement import RankTest, rank_test

GROUPS = {
    "clip": "CLIP alone",
    "guide": "with a self-supervised second model",
    "masks": "with masks of a segmenter",
}
UNPUBLISHED = ("thesis-", "ovss-")
"""Beginnings of the names of recipes that are no published method, but the thesis's or this project's own."""
COUNTED = "ViT-B/16"  # the tower that nearly every paper reports


def published_methods() -> list[str]:
    """Names of the recipes of published methods, by group, year and name; neither the thesis's nor this project's own."""
    recipes = [Recipe.named(name) for name in recipe_names()]
    recipes = [recipe for recipe in recipes if not recipe.name.startswith(UNPUBLISHED)]
    order = list(GROUPS)
    recipes.sort(key=lambda recipe: (order.index(recipe.group), recipe.year or 0, recipe.name))
    return [recipe.name for recipe in recipes]


def published_miou(dataset: str = "coco_stuff", model: str = COUNTED) -> pd.Series:
    """mIoU in percent that a method's own paper or release reports, by recipe; others where it reports none.

    A recipe's own sources are called after it ("sclip-paper", "sclip-repo"). Among several numbers the first in
    the claims files is taken. Numbers for settings other than the recipe's are left out.
    """
    claims = load_claims()
    kept = claims[
        (claims["dataset"] == dataset)
        & (claims["metric"] == "miou")
        & (claims["kind"] == "reported")
        & (claims["model"] == model)
        & (claims["recipe"] != "")
    ]
    rows = list(zip(kept["recipe"], kept["changes"], strict=True))
    as_shipped = [
        configuration_key(recipe, changes, dataset) == configuration_key(recipe, "", dataset)
        for recipe, changes in rows
    ]
    kept = kept[as_shipped]
    from_authors = [
        re.sub("-(paper|repo|note|issues)$", "", source) == recipe
        for source, recipe in zip(kept["source"], kept["recipe"], strict=True)
    ]
    kept = kept.assign(from_authors=from_authors).sort_values(
        "from_authors", ascending=False, kind="stable"
    )
    return kept.drop_duplicates("recipe").set_index("recipe")["value"].astype(float)


def methods_table(results: Results, names: Sequence[str] | None = None) -> pd.DataFrame:
    """One row per method, in the order of :func:`published_methods`.

    Columns: group, year, published (mIoU on COCO-Stuff with ViT-B/16 in percent, NaN: none; see
    :func:`published_miou`), value, low, high (measured mIoU in percent, NaN: not in `results`), boundary (boundary
    F1, percent), refined (the steps behind the scores, such as "pamr", in the recipe that was measured), licence.

    Args:
        results: measured ones; methods that are not among them keep empty cells.
        names: these recipes only; None: all published methods.
    """
    published = published_miou()
    measured = results.numbers("miou").set_index("recipe") if len(results) else pd.DataFrame()
    boundary = results.numbers("boundary_f1").set_index("recipe") if len(results) else measured
    rows = []
    for name in names if names is not None else published_methods():
        recipe = Recipe.named(name)
        report = results.reports.get(recipe.name)
        row = {
            "recipe": recipe.name,
            "group": recipe.group,
            "year": recipe.year,
            "published": published.get(recipe.name, np.nan),
            "refined": refined_by(report.recipe if report is not None else recipe),
            "licence": recipe.licence,
        }
        for column in ("value", "low", "high"):
            row[column] = measured[column].get(recipe.name, np.nan) if len(measured) else np.nan
        row["boundary"] = boundary["value"].get(recipe.name, np.nan) if len(boundary) else np.nan
        rows.append(row)
    return pd.DataFrame(rows).set_index("recipe")


def refined_by(recipe: Recipe) -> str:
    """Names of the stages of a recipe that refine its scores or its labels, with commas; "" for raw ones."""
    points = {name: info.point for name, info in stages().items()}
    behind = [name for name in recipe.stages if points[name] in ("refine", "labels")]
    return ", ".join(name for name in behind if name != "labels")


def agreement(table: pd.DataFrame, groups: Sequence[str] = tuple(GROUPS)) -> RankTest:
    """Kendall's tau of published and measured mIoU over the methods of these groups that have both."""
    methods = table[table["group"].isin(list(groups))].dropna(subset=["published", "value"])
    return rank_test(methods["published"].to_numpy(), methods["value"].to_numpy())
