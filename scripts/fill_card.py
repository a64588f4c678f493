"""Writes the measured tables of an embedded model's card, between its two marks.

    python scripts/fill_card.py sceneclip
    python scripts/fill_card.py sceneclip-p32

All validation pictures of Scenes, all classes as words, recipes as published; results come from the store, or are
measured now. Run it after every training, so that no number of the card is typed.
"""

import argparse
import sys

import numpy as np
from marked_parts import refill

from ovsslib import paths
from ovsslib.book.chapter import chapter
from ovsslib.clip.loading import EMBEDDED
from ovsslib.evaluation.intervals import written
from ovsslib.evaluation.profiles import Profile
from ovsslib.evaluation.results import Results
from ovsslib.study.comparisons import select
from ovsslib.study.rank_agreement import proxy_validity

BEGIN, END = "<!-- measured: scripts/fill_card.py -->", "<!-- end of measured -->"
RECIPES = {
    "clip": "clip", "maskclip": "maskclip", "sclip": "sclip", "clearclip": "clearclip",
    "naclip": "naclip", "naclip without PAMR": ("naclip", {"pamr": None}), "gem": "gem",
    "cliptrase": "cliptrase", "resclip": "resclip", "itaclip": "itaclip",
}  # fmt: skip


def accuracy_table(results: Results, kinds: tuple[str, ...]) -> str:
    """One row per recipe: mIoU with its interval, means over stuff and things, persons."""
    stuff = np.array([kind != "thing" for kind in kinds])
    head = ["recipe", "mIoU, %", "stuff and materials, %", "things, %", "person, %", "pixels, %"]
    rows = [head, ["---"] * len(head)]
    for title in RECIPES:
        report = results[title]
        iou, interval = report.per_class.to_numpy(), report.interval("miou")
        values = (
            iou[stuff].mean(), iou[~stuff].mean(), report.per_class["person"], report.pixel_accuracy
        )  # fmt: skip
        miou = written(interval.value, interval.low, interval.high, ".1f")
        rows.append([title, miou, *(f"{value:.1f}" for value in values)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=EMBEDDED)
    name = parser.parse_args().model
    profile = Profile.named("embedded").but(model=name)
    book = chapter(profile)
    results = book.measure(RECIPES)
    validity = proxy_validity(profile, select(1))
    tau = validity.rankings[0].tau()
    test = validity.rankings[0].test()
    best, words = validity.rankings[0], book.dataset.vocabulary
    about = f"Scenes, validation, {results.images} pictures, all {len(words)} classes as words"
    order = f"{best.comparison.name}, {len(best.names)} methods"
    text = f"""{about}, 95 % interval over pictures:

{accuracy_table(results, words.kinds)}

Kendall's tau with the published order ({order}): {tau.value:+.2f} [{tau.low:+.2f}, {tau.high:+.2f}] (interval over pictures),
exact two-sided p over the methods {test.p:.2f}."""
    card = paths.data(f"models/{name}/card.md")
    refill(card, BEGIN, END, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
