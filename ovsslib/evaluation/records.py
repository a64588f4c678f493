"""How a result is written down: a text (JSON) of scores, recipe and provenance, and the packed counts of every image.

Records live one by one in the user's cache (`store.py`), or all together in one file, which is how the library
ships its own.
"""

import dataclasses
import hashlib
import io
import json
import sqlite3
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ovsslib import paths
from ovsslib.errors import OvssError
from ovsslib.evaluation.report import Report
from ovsslib.recipe import Recipe, make_settings, recipe_names

FORMAT = 2
_SQLITE_VERSION_BYTES = slice(
    96, 100
)  # which SQLite wrote a file: the one part that two machines differ in


@dataclasses.dataclass(frozen=True, eq=False)
class Record:
    """One stored evaluation, not yet looked into.

    Attributes:
        key: its name.
        text: JSON of everything but the counts.
        read_counts: function that gives the packed counts. Raises OSError where they are missing.
        origin: where it stands, for messages.
    """

    key: str
    text: str
    read_counts: Callable[[], bytes]
    origin: str

    def content(self) -> dict[str, Any] | None:
        """The text's content. None, with a warning, if it is damaged, and without one if it has another format."""
        try:
            content = json.loads(self.text)
            if content["format"] != FORMAT:
                return None
            if content["key"] == self.key:
                return content
            problem = f"key {content['key']}"
        except (ValueError, KeyError, TypeError) as error:
            problem = f"{type(error).__name__}: {error}"
        self._warn(problem)
        return None

    def report(self) -> Report | None:
        """The report. None, with a warning, if the record is damaged."""
        content = self.content()
        if content is None:
            return None
        try:
            counts = self.read_counts()
            if hashlib.sha256(counts).hexdigest() != content["counts_sha256"]:
                raise ValueError("the counts are not those of the record")
            return report_of(content, counts)
        except (OSError, ValueError, KeyError, TypeError, OvssError) as error:
            self._warn(error)
            return None

    def _warn(self, problem: object) -> None:
        warnings.warn(
            f"the record {self.origin} is left out: it is damaged ({problem})", stacklevel=4
        )


def record_of(key: str, parts: Mapping[str, Any], report: Report) -> tuple[str, bytes]:
    """Text and packed counts of a report: what a record holds."""
    counts = pack_counts(report)
    base, changes = configuration(report.recipe, report.dataset)
    content = {
        "format": FORMAT,
        "key": key,
        "parts": dict(parts),
        **report.record(),
        "counts_sha256": hashlib.sha256(counts).hexdigest(),
        "configuration": {"recipe": base, "changes": changes},
    }
    return json.dumps(content, indent=1), counts  # not sorted: classes keep their order


def report_of(content: Mapping[str, Any], counts: bytes) -> Report:
    """The report of a record's content. Raises ValueError, KeyError, TypeError or RecipeError for a damaged one."""
    arrays = unpack_counts(counts)
    return Report(
        recipe_of(content), content["dataset"], content["model"], tuple(content["per_class"]),
        arrays["classes"], arrays["boundary"], arrays["calibration"], arrays["indices"],
        [tuple(pair) for pair in content["skipped"]], content["limit"],
        content["seconds_per_image"] or float("nan"), content["provenance"], content["notes"],
    )  # fmt: skip


def recipe_of(content: Mapping[str, Any]) -> Recipe:
    """The recipe of a record's content. Raises RecipeError for settings that are no longer there."""
    recipe = content["recipe"]
    stages = {name: make_settings(name, values) for name, values in recipe["stages"].items()}
    return Recipe(recipe["name"], stages, dataset=recipe["dataset"])


class RecordsFile:
    """Records in one file, read-only: an SQLite database with one table.

    Args:
        path: may be missing (no records). It is never locked or written, so it may lie on a read-only disk.
    """

    def __init__(self, path: Path):
        self.path = Path(path)

    def keys(self) -> list[str]:
        """Keys of all records, sorted."""
        return [key for (key,) in self._select("SELECT key FROM records ORDER BY key")]

    def get(self, key: str) -> Record | None:
        """One record, or None."""
        rows = self._select("SELECT text FROM records WHERE key = ?", key)
        return self._record(key, rows[0][0]) if rows else None

    def __iter__(self) -> Iterator[Record]:
        """All records in the order of their keys."""
        for key, text in self._select("SELECT key, text FROM records ORDER BY key"):
            yield self._record(key, text)

    def _record(self, key: str, text: str) -> Record:
        def counts() -> bytes:
            rows = self._select("SELECT counts FROM records WHERE key = ?", key)
            if not rows:
                raise OSError(f"{self.path} has changed")
            return rows[0][0]

        return Record(key, text, counts, f"{key} in {self.path}")

    def _select(self, query: str, *values: str) -> list[tuple]:
        """Rows of a query; none, with a warning, if the file is damaged."""
        if not self.path.is_file():
            return []
        try:
            address = f"{self.path.resolve().as_uri()}?mode=ro&immutable=1"
            with closing(sqlite3.connect(address, uri=True)) as database:
                return database.execute(query, values).fetchall()
        except sqlite3.Error as error:
            warnings.warn(
                f"the records in {self.path} are left out: the file is damaged ({error}); fetch it again",
                stacklevel=4,
            )
            return []


def write_records(path: Path, records: Iterable[tuple[str, str, bytes]]) -> None:
    """Write (key, text, counts) of records into one file; equal records give equal bytes, in whatever order they come.

    Raises DataError if the file cannot be written; what was there before stays then.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "records.sqlite"
        with closing(sqlite3.connect(file, isolation_level=None)) as database:
            database.execute("PRAGMA page_size = 4096")
            database.execute("BEGIN")
            database.execute(
                "CREATE TABLE records (key TEXT PRIMARY KEY, text TEXT NOT NULL, counts BLOB NOT NULL)"
            )
            database.executemany("INSERT INTO records VALUES (?, ?, ?)", sorted(records))
            database.execute("COMMIT")
        content = bytearray(file.read_bytes())
    content[_SQLITE_VERSION_BYTES] = bytes(4)
    paths.write_file(path, bytes(content), make_folder=True)


def pack_counts(report: Report) -> bytes:
    """The counts of a report as the bytes of an .npz file: nonzero (image, class) pairs, smallest types."""
    images, classes = np.nonzero(report.counts.any(axis=1))
    values = report.counts[images, :, classes]
    bins = report.calibration_counts.reshape(-1, 3)
    filled = np.flatnonzero(bins.any(axis=1))
    columns = {
        "shape": np.array([*report.counts.shape, report.calibration_counts.shape[1]]),
        "indices": report.indices,
        # Differences of rising numbers are small numbers, which compress.
        "images": np.diff(images, prepend=0),
        "classes": classes,
        "intersection": values[:, 0],
        "prediction": values[:, 1],
        "label": values[:, 2],
        "boundary": report.boundary_counts,
        "bin_places": np.diff(filled, prepend=0),
        "bin_pixels": bins[filled, 0],
        "bin_right": bins[filled, 1],
        "bin_confidence": bins[filled, 2],
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_LZMA) as archive:
        for name, values in columns.items():
            part = io.BytesIO()
            np.save(part, _smallest(values), allow_pickle=False)
            # A fixed date, so that equal counts give equal bytes.
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), part.getvalue(), zipfile.ZIP_LZMA)
    return buffer.getvalue()


def unpack_counts(content: bytes) -> dict[str, np.ndarray]:
    """Arrays "classes" (N, 3, C), "boundary" (N, 4), "calibration" (N, bins, 3), "indices" (N,), all int64.

    Raises ValueError if the content is not what :func:`pack_counts` writes.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            column = {name: stored[name].astype(np.int64) for name in stored.files}
        images, rows, classes, bins = column["shape"]
        full = np.zeros((images, rows, classes), dtype=np.int64)
        values = [column[name] for name in ("intersection", "prediction", "label")]
        full[np.cumsum(column["images"]), :, column["classes"]] = np.stack(values, axis=1)
        calibration = np.zeros((images * bins, 3), dtype=np.int64)
        values = [column[name] for name in ("bin_pixels", "bin_right", "bin_confidence")]
        calibration[np.cumsum(column["bin_places"])] = np.stack(values, axis=1)
    except (zipfile.BadZipFile, KeyError, IndexError, EOFError) as error:
        raise ValueError(f"not the counts of a report ({error})") from None
    return {
        "classes": full,
        "boundary": column["boundary"],
        "calibration": calibration.reshape(images, bins, 3),
        "indices": column["indices"],
    }


def _smallest(values: np.ndarray) -> np.ndarray:
    """The same numbers in the smallest unsigned type that holds them."""
    largest = int(values.max()) if values.size else 0
    return values.astype(np.min_scalar_type(largest))


def configuration(recipe: Recipe, dataset: str | None) -> tuple[str, str]:
    """The shipped recipe that a recipe comes closest to, and the changes to it, as claims write them.

    The changes are such that `Recipe.named(name, dataset).but(parse_changes(changes.split(";")))` gives an
    equal recipe: "" for the shipped one itself.
    """
    names = recipe_names()
    if recipe.name in names:
        names = [recipe.name]
    best = None
    for name in names:
        shipped = Recipe.named(name, dataset)
        changes = change_texts(shipped, recipe)
        if best is None or len(changes) < len(best[1]):
            best = (name, changes)
    return (best[0], "; ".join(best[1])) if best else (recipe.name, "")


def change_texts(base: Recipe, recipe: Recipe) -> list[str]:
    """Changes "stage=false", "stage=true", "stage.field=value" that lead from one recipe to another."""
    settings, base_settings = recipe.resolved(), base.resolved()
    texts = [f"{name}=false" for name in base_settings if name not in settings]
    for name, fields in settings.items():
        base_fields = base_settings.get(name)
        if base_fields is None:
            base_fields = json.loads(json.dumps(dataclasses.asdict(make_settings(name))))
            changed = [field for field in fields if fields[field] != base_fields[field]]
            if not changed:
                texts.append(f"{name}=true")
        else:
            changed = [field for field in fields if fields[field] != base_fields[field]]
        texts += [f"{name}.{field}={_yaml(fields[field])}" for field in changed]
    return texts


def _yaml(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10**9).strip()
    return text.removesuffix("...").strip()
