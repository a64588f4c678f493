"""Search for the recipe `ovss-best`, and measure it once where nothing was chosen.

    python scripts/search_best.py            # data/searches/ovss-best.yaml on the development split -> ovss-best.csv
    python scripts/search_best.py --final    # ovss-best against ITACLIP on the test split -> ovss-best-test.csv

The development and the test split are drawn when needed. What is measured is kept in the results store, so that a
search that was stopped goes on..
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import pandas as pd
import torch

from ovsslib import paths
from ovsslib.evaluation import intervals
from ovsslib.evaluation.profiles import Profile
from ovsslib.evaluation.results import Results, measure, named_recipes
from ovsslib.scenes import SPLIT_SEEDS, make_test_split, write_split
from ovsslib.study.ablation import read_grid

FOLDER = paths.data("searches")


def development(count: int, folder: Path) -> Profile:
    """SceneCLIP on the first pictures of the development split, drawn into a folder."""
    write_split(folder, count, SPLIT_SEEDS["dev"], "dev")
    return Profile("development", root=str(folder), split="dev", limit=count)


def search(folder: Path) -> pd.DataFrame:
    """Every trial's mIoU in percent, seconds an image, and its paired difference from the search's base."""
    count = read_grid(FOLDER / "ovss-best.yaml").limit
    grid = read_grid(FOLDER / "ovss-best.yaml", development(count, folder))
    rows = {}
    for name, recipe in grid.recipes.items():  # one by one: seconds are each recipe's own
        base = grid.recipes[grid.base]
        results = measure({grid.base: base, name: recipe}, grid.profile, grid.limit, progress=False)
        rows[name] = row(results, name, grid.base)
        print(name, rows[name]["miou"], flush=True)
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("trial")


def final(folder: Path) -> pd.DataFrame:
    """ovss-best and ITACLIP on the test split, which took part in no choice."""
    make_test_split(folder)
    profile = Profile("test", root=str(folder), split="test")
    results = measure(named_recipes(["itaclip", "ovss-best"], profile), profile)
    rows = {name: row(results, name, "itaclip") for name in results}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("recipe")


def row(results: Results, name: str, base: str) -> dict[str, float | int | str]:
    """Numbers of one recipe: percent, points, seconds."""
    report = results[name]
    level = report.interval("miou")
    step = report.difference(results[base], "miou")
    return {
        "images": report.images,
        "miou": round(float(level.value), 2),
        "low": round(float(level.low), 2),
        "high": round(float(level.high), 2),
        "difference": round(float(step.value), 2),
        "difference_low": round(float(step.low), 2),
        "difference_high": round(float(step.high), 2),
        "verdict": "" if name == base else intervals.verdict(step, "miou"),
        "boundary_f1": round(float(report.interval("boundary_f1").value), 2),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--final", action="store_true", help="the test split, once, at the end")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        table = final(Path(folder)) if options.final else search(Path(folder))
    file = FOLDER / ("ovss-best-test.csv" if options.final else "ovss-best.csv")
    paths.write_file(file, table.to_csv(lineterminator="\n").encode())
    print(table.to_string())
    return 0


if __name__ == "__main__":
    sys.exit(main())
