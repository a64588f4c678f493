"""What a second model adds to a method: every method that takes one beside the same without it.

Only the second model's part differs in a pair, so the difference is what it brings. Seconds and forwards beside it are
in :mod:`ovsslib.study.forwards` and :mod:`ovsslib.study.timing`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ovsslib.errors import RecipeError, did_you_mean
from ovsslib.evaluation import intervals
from ovsslib.evaluation.results import Results
from ovsslib.recipe import Recipe

Changed = tuple[str, Mapping[str, Any]]
"""A recipe's name, and what is changed in it."""
# What ProxyCLIP's block is without a guide: CLIP's own queries compared, no residual, no feed-forward network.
_OWN_QUERIES = {
    "proxy_attention": False,
    "attention": {"terms": "qq", "residual": False, "feed_forward": False},
}
_BOUNDARIES, _VOTE = {"sam2_boundaries": True}, {"mask_vote": {"keep_smallest": False}}


@dataclass(frozen=True)
class Pair:
    """A method with and without its second model.

    Attributes:
        title: what tables call it.
        group: "guide" or "masks" (`ovsslib.study.methods.GROUPS`).
        helped, base: the two sides. base_title: what tables call the second.
    """

    title: str
    group: str
    helped: Changed
    base: Changed
    base_title: str


PAIRS = (
    Pair("proxyclip", "guide", ("proxyclip", {}), ("proxyclip", _OWN_QUERIES), "its own queries"),
    Pair("lposs", "guide", ("lposs", {}), ("lposs", {"patch_propagation": False}), "no propagation"),
    Pair("gla-proxyclip", "guide", ("gla-proxyclip", {}), ("gla-clearclip", {}), "gla-clearclip"),
    Pair("corrclip", "masks", ("corrclip", {}), ("corrclip", {"mask_vote": False}), "no vote"),
    Pair("ov-stitcher", "masks", ("ov-stitcher", {}), ("ov-stitcher", {"mask_vote": False}), "no vote"),
    Pair("trident", "masks", ("trident", {}), ("trident", {"prompt_refinement": False}), "no prompts"),
    Pair("sclip + vote", "masks", ("sclip", _VOTE), ("sclip", {}), "sclip"),
    Pair("sclip + outlines", "masks", ("sclip", _BOUNDARIES), ("sclip", {}), "sclip"),
    Pair("naclip + vote", "masks", ("naclip", _VOTE), ("naclip", {}), "naclip"),
    Pair("naclip + outlines", "masks", ("naclip", _BOUNDARIES), ("naclip", {}), "naclip"),
)  # fmt: skip
"""Pairs by the kind of help. "vote" is the stage `mask_vote`, "outlines" is `sam2_boundaries`, masks are the proposer's
that needs no weights where a recipe does not name another."""


def sides(pairs: Sequence[Pair] = PAIRS) -> dict[str, Changed]:
    """All recipes of some pairs, each once: the name that :func:`gains` looks for -> (recipe, changes)."""
    return {
        name: side for pair in pairs for name, side in zip(_names(pair), _sides(pair), strict=True)
    }


def named_pairs(titles: Sequence[str] = ()) -> list[Pair]:
    """Pairs by their titles, in the order of `PAIRS`; all of them for none. Raises RecipeError for an unknown title."""
    names = [pair.title for pair in PAIRS]
    for title in titles:
        if title not in names:
            raise RecipeError(f"unknown pair {title!r}{did_you_mean(title, names)}")
    return [pair for pair in PAIRS if not titles or pair.title in titles]


def complete(names: Sequence[str], pairs: Sequence[Pair] = PAIRS) -> list[Pair]:
    """The pairs of which both sides are among some names of :func:`sides`."""
    return [pair for pair in pairs if set(_names(pair)) <= set(names)]


def gains(
    results: Results,
    metrics: Sequence[str] = ("miou", "boundary_f1"),
    pairs: Sequence[Pair] = PAIRS,
) -> dict[str, pd.DataFrame]:
    """What the second model adds: metric -> one row per pair that `results` has both sides of.

    Columns: group, base (its title), without and with (percent), value, low, high (points, paired over the images) and
    verdict. Index: the pair's title.

    Args:
        results: measured :func:`sides`.
    """
    tables = {}
    for metric in metrics:
        rows = {}
        for pair in complete(list(results), pairs):
            helped, base = (results[name] for name in _names(pair))
            gain = helped.difference(base, metric)
            rows[pair.title] = {
                "group": pair.group, "base": pair.base_title, "without": base.value(metric),
                "with": helped.value(metric), "value": gain.value, "low": gain.low, "high": gain.high,
                "verdict": intervals.verdict(gain, metric),
            }  # fmt: skip
        columns = ["group", "base", "without", "with", "value", "low", "high", "verdict"]
        tables[metric] = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
    return tables


def second_models(recipe: Recipe) -> dict[str, str]:
    """What a recipe asks of others than CLIP: "guide", "masks" and "prompts" -> their names; only those it has."""
    models = {
        "guide": {s.guide_name() for s in recipe.stages_with("guide_name")} - {None},
        "masks": {s.proposer_name() for s in recipe.stages_with("proposer_name")},
        "prompts": {s.prompter for s in recipe.stages.values() if hasattr(s, "prompter")},
    }
    return {kind: ", ".join(sorted(names)) for kind, names in models.items() if names}


def _sides(pair: Pair) -> tuple[Changed, Changed]:
    return pair.helped, pair.base


def _names(pair: Pair) -> tuple[str, str]:
    """Names of both sides: a recipe as it is bears its own, so that several pairs share one."""
    recipe, changes = pair.base
    return pair.title, recipe if not changes else f"{pair.title}, {pair.base_title}"
