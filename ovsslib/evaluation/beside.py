"""Claimed beside measured: tables in which a published number and one measured here never share a column."""

from collections.abc import Mapping

import pandas as pd

from ovsslib.evaluation.claims import Claim, claim
from ovsslib.evaluation.results import Results

DATASET_TITLES = {
    "coco_stuff": "COCO-Stuff", "coco_object": "COCO-Object", "voc20": "VOC20", "voc21": "VOC21",
    "context59": "Context59", "context60": "Context60", "cityscapes": "Cityscapes", "ade20k": "ADE20K",
}  # fmt: skip
_SUFFIX = {"percent": " %", "points": " points", "s": " s", "GB": " GB", "x": " times"}
Claims = Mapping[str, str | None]


def claimed_text(found: Claim) -> str:
    """A claim's number as printed, with its unit, and what it is if nobody measured it."""
    kind = "" if found.kind == "reported" else f" ({found.kind})"
    sign = "+" if found.metric.startswith("gain_") and found.value > 0 else ""
    return f"{sign}{found.text}{_SUFFIX.get(found.unit, '')}{kind}"


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
