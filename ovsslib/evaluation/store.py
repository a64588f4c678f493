"""The results store: one record per evaluation, so that nothing is computed twice.

A record (`records.py`) is a text of scores, resolved recipe, provenance and what its key is made of, and the counts
of every image, from which all scores and intervals can be made again. The records that ship with the library are
read-only, in one file; new ones go to the user's cache, a pair of files each. Tables and figures come from here
alone.
"""

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ovsslib import paths
from ovsslib.errors import DataError
from ovsslib.evaluation import intervals
from ovsslib.evaluation.keys import key_of
from ovsslib.evaluation.records import Record, RecordsFile, record_of, write_records
from ovsslib.evaluation.report import CLASS_PREFIX, Report

FRESH_VARIABLE = "OVSSLIB_FRESH"
SHIPPED = "results/results.sqlite"
CONTRIBUTED = "contributed"  # folder beside it, of files that other people's runs have made
COLUMNS = (
    "model", "dataset", "recipe", "changes", "label", "metric", "value", "low", "high", "images", "limit", "commit",
    "precision", "key",
)  # fmt: skip


class ResultsStore:
    """Records by key.

    Args:
        folder: where new records go; the user's cache if None, or the folder that the environment variable
            OVSSLIB_FRESH names. It is made when something is kept.
        shipped: file of read-only records; that of the library if None, and none of them with OVSSLIB_FRESH.
    """

    def __init__(self, folder: str | Path | None = None, shipped: str | Path | None = None):
        # A build that measures everything again keeps its records to itself, so that each is measured once.
        fresh = os.environ.get(FRESH_VARIABLE)
        self.folder = Path(folder if folder is not None else fresh or paths.cache_path("results"))
        if shipped is None:
            shipped = self.folder / "none.sqlite" if fresh else paths.data(SHIPPED)
        self.shipped = RecordsFile(Path(shipped))
        files = sorted((self.shipped.path.parent / CONTRIBUTED).glob("*.sqlite"))
        self.contributed = [RecordsFile(path) for path in files]

    @staticmethod
    def ordinary() -> "ResultsStore":
        """The user's and the library's records, whatever OVSSLIB_FRESH says."""
        return ResultsStore(paths.cache_path("results"), paths.data(SHIPPED))

    def __repr__(self) -> str:
        return f"ResultsStore({str(self.folder)!r}, shipped={str(self.shipped.path)!r})"

    def get(self, parts: Mapping[str, Any]) -> Report | None:
        """The report of an evaluation given by its key parts (`keys.evaluation_parts`), or None.

        A damaged record counts as absent, with a warning.
        """
        record = self.record(key_of(parts))
        return None if record is None else record.report()

    def record(self, key: str) -> Record | None:
        """A record by its key, or None."""
        places = [self._own_record, *(file.get for file in self._files())]
        return next((record for place in places if (record := place(key)) is not None), None)

    def _files(self) -> list[RecordsFile]:
        """The files that come with the library, its own first."""
        return [self.shipped, *self.contributed]

    def library_keys(self) -> list[str]:
        """Keys of the records that come with the library, sorted."""
        return sorted(set().union(*(file.keys() for file in self._files())))

    def put(self, parts: Mapping[str, Any], report: Report) -> str:
        """Keep a report in the user's folder; returns its key.

        Raises DataError if it cannot be written; an unfinished file never takes a record's name.
        """
        key = key_of(parts)
        text, counts = record_of(key, parts, report)
        self._write(key, text, counts)
        return key

    def keep(self, record: Record) -> None:
        """Keep a record of another store in the user's folder, as it is. Raises DataError if it cannot be written."""
        self._write(record.key, record.text, record.read_counts())

    def _write(self, key: str, text: str, counts: bytes) -> None:
        # The text comes last: a record without it does not exist.
        paths.write_file(self.folder / f"{key}.npz", counts, make_folder=True)
        paths.write_file(self.folder / f"{key}.json", text.encode(), make_folder=True)

    def keys(self) -> list[str]:
        """Keys of all records, each once, sorted."""
        return sorted({*self._own_keys(), *self.library_keys()})

    def records(self) -> Iterator[Record]:
        """All records, the user's first, each key once, in the order of the keys."""
        keys = set()
        for key in self._own_keys():
            record = self._own_record(key)
            if record is not None:
                keys.add(key)
                yield record
        for file in self._files():
            for record in file:
                if record.key not in keys:
                    keys.add(record.key)
                    yield record

    def reports(self) -> Iterator[Report]:
        """All readable records as reports."""
        for record in self.records():
            report = record.report()
            if report is not None:
                yield report

    def frame(self, keys: Iterable[str] | None = None) -> pd.DataFrame:
        """All scores as a tidy table: one row per evaluation and metric, percent, 95% intervals.

        Columns are `COLUMNS`; `metric` also has "class_iou:NAME"; `limit` is missing where the whole data set
        was used. `recipe` and `changes` are the shipped recipe and what differs from it. `keys` restricts it.
        """
        selection = None if keys is None else set(keys)
        rows: list[dict[str, Any]] = []
        for record in self.records():
            if selection is None or record.key in selection:
                content = record.content()
                rows.extend(_rows(_with_intervals(record, content)) if content is not None else ())
        frame = pd.DataFrame(rows, columns=list(COLUMNS))
        order = ["dataset", "model", "recipe", "changes", "limit", "key"]
        return frame.sort_values(order, kind="stable", ignore_index=True)

    def ship(
        self, keys: Iterable[str], target: str | Path | None = None, drop_others: bool = False
    ) -> int:
        """Put records into the shipped file (or `target`); returns how many are new there.

        With `drop_others` the file holds these alone. Raises DataError for a key that the store does not have, or a
        file that cannot be written.
        """
        file = self.shipped if target is None else RecordsFile(Path(target))
        before, key_set = set(file.keys()), set(keys)
        rows = []
        for key in sorted(key_set if drop_others else key_set | before):
            record = file.get(key) or self.record(key)
            if record is None:
                raise DataError(f"the store has no record {key}; evaluate it first")
            rows.append((key, record.text, record.read_counts()))
        if {key for key, _, _ in rows} != before:
            write_records(file.path, rows)
        return len(key_set - before)

    def _own_keys(self) -> list[str]:
        return sorted(path.stem for path in self.folder.glob("*.json"))

    def _own_record(self, key: str) -> Record | None:
        path = self.folder / f"{key}.json"
        try:
            text = path.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            warnings.warn(
                f"the record {path} is left out: it cannot be read ({error})", stacklevel=3
            )
            return None
        return Record(key, text, path.with_suffix(".npz").read_bytes, str(path))


def _with_intervals(record: Record, content: dict[str, Any]) -> dict[str, Any]:
    """The content with intervals as they are made now: those of an older version are made anew from
    the counts, which say all that is known."""
    if content.get("intervals") == intervals.VERSION:
        return content
    report = record.report()
    if report is None:
        return content | {"metrics": _without_ends(content["metrics"]),
                          "per_class": _without_ends(content["per_class"])}  # fmt: skip
    fresh = report.record()
    return content | {name: fresh[name] for name in ("metrics", "per_class", "intervals")}


def _without_ends(scores: Mapping[str, list]) -> dict[str, list]:
    return {name: [three[0], None, None] for name, three in scores.items()}


def _rows(record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    same = {
        "model": record["model"],
        "dataset": record["dataset"],
        **record["configuration"],
        "label": record["recipe"]["name"],
        "images": record["images"],
        "limit": record["limit"],
        "commit": record["provenance"].get("commit", ""),
        "precision": record["parts"]["model"]["precision"],
        "key": record["key"],
    }
    scores = dict(record["metrics"])
    scores |= {f"{CLASS_PREFIX}{name}": three for name, three in record["per_class"].items()}
    for metric, (value, low, high) in scores.items():
        yield {**same, "metric": metric, "value": value, "low": low, "high": high}
    if record["seconds_per_image"] is not None:
        yield {**same, "metric": "seconds_per_image", "value": record["seconds_per_image"]}
