"""Put the records that the book needs from the user's results store into `data/results`, and drop stale ones.

A record is shipped if it is of an embedded model and this checkout would find it: same weights, images, words,
settings and versions of the code. Usage: python scripts/ship_results.py [--keep-stale] [--limit-mb 20]
"""

import argparse
import sys

from current_records import is_current

from ovsslib.evaluation.store import ResultsStore


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep-stale", action="store_true", help="leave outdated shipped records")
    parser.add_argument("--limit-mb", type=float, default=20.0, help="fail above this size")
    options = parser.parse_args()
    store = ResultsStore()
    before = store.shipped.keys()
    contents = (record.content() for record in store.records())
    current = {c["key"] for c in contents if c is not None and is_current(c)}
    new = store.ship(current, drop_others=not options.keep_stale)
    file = store.shipped.path
    dropped = len(set(before) - set(store.shipped.keys()))
    size = file.stat().st_size / 1e6
    print(
        f"{len(store.shipped.keys())} records, {new} new, {dropped} dropped, {size:.1f} MB in {file}"
    )
    if size > options.limit_mb:
        print(f"more than {options.limit_mb} MB; ship fewer records", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
