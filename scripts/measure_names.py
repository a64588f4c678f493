"""Measure the study of names for some methods, so that the results store has its rows (chapter "Words of your own").

python scripts/measure_names.py embedded-object naclip,itaclip
python scripts/measure_names.py embedded sclip --limit 20
"""

import argparse

from ovsslib.book.chapter import chapter
from ovsslib.study import names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("profile", help="a profile whose data set has a shipped vocabulary")
    parser.add_argument("methods", help="names of recipes with commas between them")
    parser.add_argument("--limit", type=int, help="the first images only")
    options = parser.parse_args()
    book = chapter(options.profile, limit=options.limit)
    rows = names.wordings(book.backbone, book.dataset.vocabulary)
    methods = book.names(options.methods, "methods")
    with names.unread_allowed():
        results = book.measure(names.grid(rows, methods))
    print(names.differences(results, rows, methods).round(2).to_string(index=False))


if __name__ == "__main__":
    main()
