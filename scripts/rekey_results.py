"""Give records the keys that this checkout builds for them, without measuring anything.

For changes of what a key is made of, not of what a number is: a record is taken over only if everything that it
says of itself (weights, versions of the stages and the core, settings, number of images) is what this checkout has.

    python scripts/rekey_results.py                      # the shipped file, in place
    python scripts/rekey_results.py FOLDER_OR_FILE       # other records -> the shipped file

FOLDER_OR_FILE: an .sqlite file of records, or a folder of .json and .npz pairs, which may be of format 1. Those have
a hash of the source code in place of versions: give them only if they were made by code that computes the same.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from current_records import parts_today

from ovsslib import paths
from ovsslib.errors import DataError, RecipeError
from ovsslib.evaluation.keys import key_of
from ovsslib.evaluation.records import FORMAT, RecordsFile, recipe_of, write_records
from ovsslib.evaluation.store import SHIPPED

# What a record of format 1 says of itself under names that the key of today has too.
_FORMAT_1 = 1


def records_in(source: Path) -> Iterator[tuple[dict[str, Any], bytes]]:
    """(content, packed counts) of all records of a file or a folder, of whatever format."""
    if source.is_dir():
        for path in sorted(source.glob("*.json")):
            content = json.loads(path.read_text(encoding="utf-8"))
            yield content, path.with_suffix(".npz").read_bytes()
    else:
        for record in RecordsFile(source):
            yield json.loads(record.text), record.read_counts()


def contradiction(content: Mapping[str, Any], today: Mapping[str, Any]) -> str | None:
    """What a record says of itself that is otherwise in this checkout, or None."""
    then = content["parts"]
    old = content["format"] == _FORMAT_1
    weights = then["weights"] if old else then["model"]["weights"]
    precision = then["precision"] if old else then["model"]["precision"]
    pairs = {
        "weights": (weights, today["model"]["weights"]),
        "precision": (precision, today["model"]["precision"]),
        "images": (then["images"], today["images"]),
        "words": (then["words"], today["words"]),
        "recipe": (content["recipe"]["stages"], _as_written(content)),
    }
    networks = today["networks"]
    if old:  # one network per stage, without a name
        networks = {stage: next(iter(hashes.values())) for stage, hashes in networks.items()}
        pairs["recipe's key"] = (then["recipe"], recipe_of(content).key())
    else:
        versions = {name: part["version"] for name, part in then["recipe"].items()}
        now = {name: part["version"] for name, part in today["recipe"].items()}
        pairs |= {"core": (then["core"], today["core"]), "versions": (versions, now)}
    pairs["networks"] = (then["networks"], networks)
    return next((f"{n}: {a!r} is {b!r} now" for n, (a, b) in pairs.items() if a != b), None)


def _as_written(content: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The recipe that is read from a record, without fields that are newer than the record."""
    stages, resolved = content["recipe"]["stages"], recipe_of(content).resolved()
    return {
        name: {field: resolved[name][field] for field in values} for name, values in stages.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    target = paths.data(SHIPPED)
    parser.add_argument("source", nargs="?", type=Path, default=target)
    options = parser.parse_args()
    records, refused = {}, []
    for content, counts in records_in(options.source):
        try:
            today = parts_today(content)
            reason = contradiction(content, today)
        except (DataError, RecipeError) as error:
            reason = str(error)
        if reason:
            refused.append(f"{content['key']} ({content['recipe']['name']}): {reason}")
            continue
        key = key_of(today)
        content |= {"format": FORMAT, "key": key, "parts": today}
        if key in records:
            refused.append(f"{key} ({content['recipe']['name']}) is there twice")
        records[key] = (key, json.dumps(content, indent=1), counts)
    if refused:
        print("\n".join(refused), f"{len(refused)} records are stale: nothing is written", sep="\n")
        return 1
    write_records(target, records.values())
    print(f"{len(records)} records, {target.stat().st_size / 1e6:.1f} MB in {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
