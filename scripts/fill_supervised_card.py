"""Writes what was trained and what was measured into the cards of the references that saw masks, between their two marks.

    python scripts/fill_supervised_card.py [PROFILE ...]

What was trained is read from the weights' own notes; the numbers come from the results store, or are measured now: all
validation pictures of Scenes, in its three views, or in those of the profiles that are named (the first one is
"embedded"). Run it after every training, so that no number of the cards is typed.
"""

import sys

import numpy as np
from marked_parts import refill
from safetensors import safe_open

from ovsslib import paths
from ovsslib.comparators import known
from ovsslib.evaluation.intervals import written
from ovsslib.evaluation.profiles import Profile
from ovsslib.evaluation.report import Report
from ovsslib.study.references import REFERENCES, WORD_PIXELS, halves, reference_report, shown

BEGIN, END = "<!-- measured: scripts/fill_supervised_card.py -->", "<!-- end of measured -->"
PROFILES = ("embedded", "embedded-object", "embedded-things")
_LABELS_IN_THE_LOSS = "every fourth place of a view"


def trained(file) -> str:
    """What the weights say of their training, as a table."""
    with safe_open(file, "pt") as weights:
        about = weights.metadata()
        names = list(weights.keys())
        count = sum(int(np.prod(weights.get_slice(name).get_shape())) for name in names)
    rows = {
        "weights": f"float16, {file.stat().st_size / 1e6:.1f} MB, {count / 1e6:.2f} million numbers",
        "pictures": f"{int(about['pictures']):,} drawn ones, of worlds that are never evaluated",
        "views": f"{int(about['views']):,}, with labels at {_LABELS_IN_THE_LOSS}",
        "steps": f"{int(about['steps']):,}, seed {about['seed']}",
        "time": f"{float(about['seconds']) / 60:.0f} minutes on the clock, one thread",
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {k} | {v} |" for k, v in rows.items())])


def measured(reports: dict[str, Report], stuff: np.ndarray) -> str:
    """One row per view: mIoU with its interval, pixel accuracy, boundary F1; then the means over kinds of classes."""
    head = ["data set", "pictures", "mIoU, %", "pixel accuracy, %", "boundary F1, %"]
    rows = [head, ["---"] * len(head)]
    for report in reports.values():
        cells = []
        for metric in ("miou", "pixel_accuracy", "boundary_f1"):
            interval = report.interval(metric)
            cells.append(written(interval.value, interval.low, interval.high, ".1f"))
        rows.append([report.dataset, str(report.images), *cells])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    iou = reports[PROFILES[0]].per_class.to_numpy()
    worst = reports[PROFILES[0]].per_class.sort_values().head(4)
    listing = ", ".join(f"{name} {value:.0f}" for name, value in worst.items())
    return (
        f"{table}\n\nMean IoU of stuff and materials {iou[stuff].mean():.1f} %, of things {iou[~stuff].mean():.1f} %; "
        f"lowest classes, %: {listing}."
    )


def by_halves(reports: dict[str, Report], told: tuple[str, ...]) -> str:
    """One row per view: mIoU over the classes whose masks were shown, and over the others; then which were shown."""
    head = [
        "data set",
        "classes with masks shown, mIoU, %",
        "classes with masks not shown, mIoU, %",
    ]
    rows = [head, ["---"] * len(head)]
    for report in reports.values():
        parts = halves(report, told).values()
        rows.append(
            [report.dataset, *(written(part.value, part.low, part.high, ".1f") for part in parts)]
        )
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"{table}\n\nMasks were shown of {len(told)} classes: {', '.join(told)}. A background is in neither half."


def main() -> int:
    """Fill the cards."""
    profiles = sys.argv[1:] or PROFILES
    vocabulary = Profile.named(PROFILES[0]).open_whole().vocabulary
    stuff = np.array([kind != "thing" for kind in vocabulary.kinds])
    for reference in REFERENCES:
        folder = paths.data(known(reference).hub)
        reports = {
            name: reference_report(reference, Profile.named(name), progress=True)
            for name in profiles
        }
        parts = [
            trained(folder / "model.safetensors"),
            "Validation pictures of Scenes, 95 % intervals over pictures:",
            measured(reports, stuff),
        ]
        if reference == WORD_PIXELS:
            parts.append(by_halves(reports, shown()))
        refill(folder / "card.md", BEGIN, END, "\n\n".join(parts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
