"""Cumulative ablations: what each step adds to the one before it, beside what was claimed for it.

Claims are about another data set and model than the measured numbers, so they get columns of their own and are never
subtracted from them. Each measured step is a paired difference over the same draws of images, with a verdict.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ovsslib.errors import DataError, RecipeError
from ovsslib.evaluation import intervals
from ovsslib.evaluation.results import Results, title_of
from ovsslib.study.claims import claim
from ovsslib.study.claims_table import claimed_text
from ovsslib.study.factorial import SWITCHES

MEASURED = (
    "value", "low", "high", "step", "step_low", "step_high", "verdict", "claimed", "claimed_step",
)  # fmt: skip


def accumulate(
    base: str, switches: Sequence[str], known: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, tuple[str, dict[str, Any]]]:
    """The rows of an ablation that puts one switch on after the other, as `Chapter.measure` takes them.

    Args:
        base: name of a recipe. switches: names in `known`, in the order in which they are put on.
        known: name -> changes; the thesis's switches (`factorial.SWITCHES`) if None.

    Returns:
        "baseline" -> (base, {}), then "+ NAME" -> (base, all changes so far).

    Raises RecipeError for an unknown or repeated switch.
    """
    known = SWITCHES if known is None else known
    if set(switches) - set(known) or len(set(switches)) < len(switches):
        raise RecipeError(f"switches {list(switches)}: choose different ones of {', '.join(known)}")
    rows: dict[str, tuple[str, dict[str, Any]]] = {"baseline": (base, {})}
    changes: dict[str, Any] = {}
    for name in switches:
        changes = {**changes, **known[name]}
        rows[f"+ {name}"] = (base, changes)
    return rows


def steps(
    results: Results,
    metric: str = "miou",
    claims: Mapping[str, str] | None = None,
    against: str = "previous",
) -> pd.DataFrame:
    """The rows of an ablation in the order of the results.

    Args:
        results: of :func:`ovsslib.evaluation.results.measure`.
        metric: a name of `METRICS`, or "class_iou:NAME".
        claims: row -> id of the claimed level of this metric; rows may be left out.
        against: "previous": each step is the gain over the row before it; "first": over the first row.

    Returns:
        Columns `MEASURED`, index the rows' names: value, low, high in percent with the 95% interval; step, step_low,
        step_high in points (NaN in the first row) and the verdict on it; claimed in percent and claimed_step in
        points, the difference of two claimed levels (NaN without claims).

    Raises DataError for claims of rows that do not exist, unknown claims, metrics, or another `against`.
    """
    if against not in ("previous", "first"):
        raise DataError(f"against={against!r}: choose 'previous' or 'first'")
    for name in claims or {}:
        results[name]
    levels = {row: claim(name).value for row, name in (claims or {}).items()}
    rows, names = [], list(results)
    for place, name in enumerate(names):
        interval = results[name].interval(metric)
        row: dict[str, Any] = dict.fromkeys(MEASURED, np.nan)
        row |= {"value": interval.value, "low": interval.low, "high": interval.high, "verdict": ""}
        row["claimed"] = levels.get(name, np.nan)
        if place:
            before = names[place - 1] if against == "previous" else names[0]
            step = results[name].difference(results[before], metric)
            row |= {"step": step.value, "step_low": step.low, "step_high": step.high}
            row["verdict"] = intervals.verdict(step, metric)
            row["claimed_step"] = row["claimed"] - levels.get(before, np.nan)
        rows.append(row)
    return pd.DataFrame(rows, index=pd.Index(names), columns=list(MEASURED))


def steps_table(
    results: Results,
    metric: str = "miou",
    claims: Mapping[str, str] | None = None,
    against: str = "previous",
    claimed_for: str = "COCO-Stuff, ViT-B/16",
) -> pd.DataFrame:
    """:func:`steps` for people: numbers as text with units, 95% intervals in brackets, claims in columns of their own.

    Args:
        claimed_for: data set and model that the claims are about; stands in the header of their columns.
    """
    frame = steps(results, metric, claims, against)
    title = title_of(metric)
    columns: dict[str, list[str]] = {}
    if claims:
        texts = {row: claimed_text(claim(name)) for row, name in claims.items()}
        columns[f"claimed for {claimed_for}: {title}"] = [texts.get(row, "") for row in frame.index]
        columns["claimed step"] = [
            "" if np.isnan(v) else f"{v:+.2f} points" for v in frame["claimed_step"]
        ]
    rows = frame.to_dict("records")
    columns[f"measured: {title}"] = [
        intervals.written(row["value"], row["low"], row["high"], unit=" %") for row in rows
    ]
    columns["measured step"] = [
        intervals.written(row["step"], row["step_low"], row["step_high"], "+.2f", " points")
        for row in rows
    ]
    columns["verdict"] = list(frame["verdict"])
    index = pd.Index(list(frame.index), name=f"{results.profile.dataset}, {results.images} images")
    return pd.DataFrame(columns, index=index)


def as_text(
    frame: pd.DataFrame,
    keys: Sequence[str],
    numbers: Mapping[str, str],
    verdict: str = "verdict",
    signed: bool = True,
) -> pd.DataFrame:
    """Tables of effects (`factorial`) for people: numbers with their intervals as text.

    Args:
        frame: columns NAME, NAME_low, NAME_high for each number (low, high for NAME "value"), keys, and a verdict.
        keys: columns that name a row; they become the index.
        numbers: heading -> NAME.
        signed: print a sign before positive numbers.
    """
    sign = "+" if signed else ""
    out = frame[list(keys)].copy()
    for title, name in numbers.items():
        ends = ("low", "high") if name == "value" else (f"{name}_low", f"{name}_high")
        rows = zip(frame[name], frame[ends[0]], frame[ends[1]], strict=True)
        out[title] = [intervals.written(*row, f"{sign}.2f") for row in rows]
    out["verdict"] = list(frame[verdict])
    return out.set_index(list(keys))
