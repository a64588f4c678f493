"""Copy the records that the book needs from the user's results store into `data/results`, and drop stale ones.

A record is shipped if it is of an embedded model with today's weights and was made by today's code, so that a
fresh checkout finds it. Usage: python scripts/ship_results.py [--keep-stale] [--limit-mb 15]
"""

import argparse
import json
import sys
from pathlib import Path

from ovsslib import paths
from ovsslib.clip.loading import EMBEDDED, check_file
from ovsslib.errors import ModelError, RecipeError
from ovsslib.evaluation.keys import code_hash
from ovsslib.evaluation.store import ResultsStore
from ovsslib.recipe import Recipe, make_settings


def embedded_weights() -> set[str]:
    """Hashes of the embedded models that are there."""
    found = set()
    for name in EMBEDDED:
        try:
            found.add(check_file(paths.data(f"models/{name}/model.safetensors"))[:16])
        except ModelError:
            continue
    return found


def is_current(path: Path, weights: set[str]) -> bool:
    """Whether a record would be found by this checkout: same weights, same code."""
    record = json.loads(path.read_text(encoding="utf-8"))
    if record["parts"]["weights"] not in weights or record["skipped"]:
        return False
    try:
        stages = {name: make_settings(name, v) for name, v in record["recipe"]["stages"].items()}
        recipe = Recipe(record["recipe"]["name"], stages)
    except RecipeError:  # settings that this code no longer takes
        return False
    return record["parts"]["code"] == code_hash(recipe)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep-stale", action="store_true", help="leave outdated shipped records")
    parser.add_argument("--limit-mb", type=float, default=15.0, help="fail above this size")
    options = parser.parse_args()
    store, weights = ResultsStore(), embedded_weights()
    current = {path.stem for path in store.records() if is_current(path, weights)}
    copied = store.ship(current)
    dropped = 0
    if not options.keep_stale:
        for path in store.shipped.glob("*.json"):
            if path.stem not in current:
                path.unlink()
                path.with_suffix(".npz").unlink(missing_ok=True)
                dropped += 1
    size = sum(path.stat().st_size for path in store.shipped.glob("*")) / 1e6
    print(
        f"{len(current)} records, {copied} new, {dropped} dropped, {size:.1f} MB in {store.shipped}"
    )
    if size > options.limit_mb:
        print(f"more than {options.limit_mb} MB; ship fewer records", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
