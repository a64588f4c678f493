"""Claimed beside measured: tables in which a published number and one measured here never share a column."""

from collections.abc import Mapping

import pandas as pd

from ovsslib.errors import DataError
from ovsslib.evaluation import intervals
from ovsslib.evaluation.report import CLASS_PREFIX
from ovsslib.evaluation.results import Results
from ovsslib.study.claims import Claim, claim

DATASET_TITLES = {
    "coco_stuff": "COCO-Stuff", "coco_stuff10k": "COCO-Stuff 10k", "coco_object": "COCO-Object", "voc20": "VOC20", "voc21": "VOC21",
    "context59": "Context59", "context60": "Context60", "cityscapes": "Cityscapes", "ade20k": "ADE20K",
}  # fmt: skip
_SUFFIX = {"percent": " %", "points": " points", "s": " s", "GB": " GB", "x": " times"}
_GAINS = {
    "gain_miou": "miou", "gain_boundary_f1": "boundary_f1", "gain_pixel_accuracy": "pixel_accuracy",
    "gain_person_iou": f"{CLASS_PREFIX}person",
}  # fmt: skip
Claims = Mapping[str, str | None]


def claimed_text(published: Claim) -> str:
    """A claim's number as printed, with its unit, and what it is if nobody measured it."""
    kind = "" if published.kind == "reported" else f" ({published.kind})"
    sign = "+" if published.metric.startswith("gain_") and published.value > 0 else ""
    return f"{sign}{published.text}{_SUFFIX.get(published.unit, '')}{kind}"


def beside(
    results: Results,
    claims: Mapping[str, Claims],
    metric: str = "miou",
    baseline: str | None = None,
) -> pd.DataFrame:
    """One row per recipe: columns of claims, then the measured value with its interval, and its gain with verdict.

    Args:
        results: from `measure`.
        claims: title of a column -> {row of the results: id of a claim, or None}; a title names the data set and
            the model that the claims are about.
        metric: what is measured, as :meth:`Results.table` takes it.
        baseline: row that the others are compared with, pairwise over images.

    Raises:
        DataError: an unknown claim, metric or row.
    """
    measured = results.table(metric, baseline=baseline)
    frame = pd.DataFrame(index=measured.index)
    for title, ids in claims.items():
        for row in ids:
            results[row]
        texts = {row: claimed_text(claim(id)) for row, id in ids.items() if id}
        frame[f"claimed: {title}"] = [texts.get(row, "") for row in frame.index]
    where = f"measured: {results.profile.dataset}"
    renamed = {measured.columns[0]: f"{where}, {measured.columns[0]}"}
    return frame.join(measured.rename(columns=renamed))


def gains(results: Results, claims: Mapping[str, str]) -> pd.DataFrame:
    """Claimed gains, each beside the same two recipes measured: one row per title.

    Args:
        results: from `measure`; its rows are called as the claims' recipes.
        claims: title -> id of a claim that is a gain of one recipe over another, without changes. Rows whose recipes
            are not among the results are left out.

    Returns:
        Columns "claimed: DATA SET, MODEL" (one per data set and model), "measured: DATA SET" (paired difference, points,
        95% interval; empty if the data set has no such class) and verdict.

    Raises:
        DataError: an unknown claim, or one that is not such a gain.
    """
    measured = f"measured: {results.profile.dataset}, {results.images} images"
    rows: dict[str, dict[str, str]] = {}
    for title, id in claims.items():
        published = claim(id)
        if (
            published.metric not in _GAINS
            or published.changes
            or not published.recipe
            or not published.versus
        ):
            raise DataError(f"claim {id!r} is not the gain of one recipe over another")
        if not {published.recipe, published.versus} <= set(results):
            continue
        header = f"claimed: {DATASET_TITLES.get(published.dataset, published.dataset)}, {published.model}"
        rows[title] = {header: claimed_text(published), measured: "", "verdict": ""}
        report, metric = results[published.recipe], _GAINS[published.metric]
        if metric.removeprefix(CLASS_PREFIX) in {metric, *report.names}:
            step = report.difference(results[published.versus], metric)
            rows[title][measured] = intervals.written(
                step.value, step.low, step.high, "+.2f", " points"
            )
            rows[title]["verdict"] = str(intervals.verdict(step, metric))
    frame = pd.DataFrame.from_dict(rows, orient="index").fillna("")
    last = [name for name in (measured, "verdict") if name in frame]
    return frame[[name for name in frame if name not in last] + last]
