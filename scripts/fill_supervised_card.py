"""Writes what was trained and what was measured into the card of the supervised reference, between its two marks.

    python scripts/fill_supervised_card.py

What was trained is read from the weights' own notes; the numbers come from the results store, or are measured now: all
validation pictures of Scenes, in its three views. Run it after every training, so that no number of the card is typed.
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
from ovsslib.study.on_scenes import SUPERVISED, supervised_report

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


def main() -> int:
    """Fill the card."""
    folder = paths.data(known(SUPERVISED).hub)
    reports = {name: supervised_report(Profile.named(name), progress=True) for name in PROFILES}
    vocabulary = Profile.named(PROFILES[0]).open_whole().vocabulary
    stuff = np.array([kind != "thing" for kind in vocabulary.kinds])
    text = "\n\n".join(
        [
            trained(folder / "model.safetensors"),
            "Validation pictures of Scenes, 95 % intervals over pictures:",
            measured(reports, stuff),
        ]
    )
    refill(folder / "card.md", BEGIN, END, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
