"""The results store: one record per evaluation, so that nothing is computed twice.

A record is a small JSON file (scores, resolved recipe, provenance, what its key is made of) and an .npz file with
the counts of every image, from which all scores and intervals can be made again. The records that ship with the
library are read-only; new ones go to the user's cache. Tables and figures come from here alone.
"""

import dataclasses
import hashlib
import io
import json
import os
import shutil
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from ovsslib import paths
from ovsslib.errors import DataError, OvssError
from ovsslib.evaluation.keys import key_of
from ovsslib.evaluation.report import CLASS_PREFIX, Report
from ovsslib.recipe import Recipe, make_settings, recipe_names

FORMAT = 1
TRUST_VARIABLE = "OVSSLIB_TRUST_STORE"
FRESH_VARIABLE = "OVSSLIB_FRESH"
COLUMNS = (
    "model", "dataset", "recipe", "changes", "label", "metric", "value", "low", "high", "images", "limit", "commit",
    "precision", "key",
)  # fmt: skip


class ResultsStore:
    """Records by key.

    Args:
        folder: where new records go; the user's cache if None, or the folder that the environment variable
            OVSSLIB_FRESH names.
        shipped: folder of read-only records; those of the library if None, and none of them with OVSSLIB_FRESH.
        trust: take a record also if the code has changed since; None asks the environment variable
            OVSSLIB_TRUST_STORE (1: yes).
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        shipped: str | Path | None = None,
        trust: bool | None = None,
    ):
        # A build that measures everything again keeps its records to itself, so that each is measured once.
        fresh = os.environ.get(FRESH_VARIABLE)
        folder = folder if folder is not None else fresh or paths.cache("results")
        self.folder = Path(folder)
        self.shipped = Path(shipped if shipped is not None else fresh or paths.data("results"))
        self.trust = os.environ.get(TRUST_VARIABLE) == "1" if trust is None else trust
        self._trusted: tuple[tuple[Path, ...], dict[str, Path]] | None = None

    def __repr__(self) -> str:
        return f"ResultsStore({str(self.folder)!r}, shipped={str(self.shipped)!r})"

    def get(self, parts: Mapping[str, Any]) -> Report | None:
        """The report of an evaluation given by its key parts (`keys.evaluation_parts`), or None.

        A damaged record counts as absent, with a warning.
        """
        path = self.find(parts)
        return None if path is None else _read(path)

    def find(self, parts: Mapping[str, Any]) -> Path | None:
        """Where the JSON file of a record is, or None."""
        name = f"{key_of(dict(parts))}.json"
        for folder in (self.folder, self.shipped):
            if (folder / name).is_file():
                return folder / name
        return self._without_code().get(_key_without_code(parts)) if self.trust else None

    def _without_code(self) -> dict[str, Path]:
        """Records by their key parts but the code's; read once per change of the folders."""
        paths_now = tuple(self.records())
        if self._trusted is None or self._trusted[0] != paths_now:
            records = ((path, _load(path)) for path in reversed(paths_now))
            index = {_key_without_code(r["parts"]): path for path, r in records if r is not None}
            self._trusted = (paths_now, index)
        return self._trusted[1]

    def put(self, parts: Mapping[str, Any], report: Report) -> Path:
        """Keep a report in the user's folder; returns the path of its JSON file.

        Raises DataError if it cannot be written; an unfinished file never takes a record's name.
        """
        key = key_of(dict(parts))
        counts = pack_counts(report)
        content = {
            "format": FORMAT,
            "key": key,
            "parts": dict(parts),
            **report.record(),
            "counts_sha256": hashlib.sha256(counts).hexdigest(),
        }
        base, changes = configuration(report.recipe, report.dataset)
        content["configuration"] = {"recipe": base, "changes": changes}
        text = json.dumps(content, indent=1).encode()  # not sorted: classes keep their order
        # The JSON file comes last: a record without it does not exist.
        paths.write_file(self.folder / f"{key}.npz", counts, make_folder=True)
        return paths.write_file(self.folder / f"{key}.json", text, make_folder=True)

    def records(self) -> Iterator[Path]:
        """JSON files of all records, the user's first, each key once, in the order of the keys."""
        seen = set()
        for folder in (self.folder, self.shipped):
            for path in sorted(folder.glob("*.json")):
                if path.name not in seen:
                    seen.add(path.name)
                    yield path

    def reports(self) -> Iterator[Report]:
        """All readable records as reports."""
        for path in self.records():
            report = _read(path)
            if report is not None:
                yield report

    def frame(self, keys: Iterable[str] | None = None) -> pd.DataFrame:
        """All scores as a tidy table: one row per evaluation and metric, percent, 95% intervals.

        Columns are `COLUMNS`; `metric` also has "class_iou:NAME"; `limit` is missing where the whole data set
        was used. `recipe` and `changes` are the shipped recipe and what differs from it. `keys` restricts it.
        """
        wanted = None if keys is None else set(keys)
        rows: list[dict[str, Any]] = []
        for path in self.records():
            if wanted is not None and path.stem not in wanted:
                continue
            record = _load(path)
            if record is not None:
                rows.extend(_rows(record))
        frame = pd.DataFrame(rows, columns=list(COLUMNS))
        order = ["dataset", "model", "recipe", "changes", "limit", "key"]
        return frame.sort_values(order, kind="stable", ignore_index=True)

    def ship(self, keys: Iterable[str], target: str | Path | None = None) -> int:
        """Copy records into the shipped folder (or `target`); returns how many were copied.

        Raises DataError for a key that the store does not have.
        """
        target = Path(target) if target is not None else self.shipped
        copied = 0
        for key in sorted(set(keys)):
            source = next((p for p in self.records() if p.stem == key), None)
            if source is None:
                raise DataError(f"the store has no record {key}; evaluate it first")
            if source.parent == target:
                continue
            target.mkdir(parents=True, exist_ok=True)
            for suffix in (".npz", ".json"):
                shutil.copyfile(source.with_suffix(suffix), target / f"{key}{suffix}")
            copied += 1
        return copied


def _key_without_code(parts: Mapping[str, Any]) -> str:
    return key_of({name: value for name, value in parts.items() if name != "code"})


def _rows(record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    same = {
        "model": record["model"],
        "dataset": record["dataset"],
        **record["configuration"],
        "label": record["recipe"]["name"],
        "images": record["images"],
        "limit": record["limit"],
        "commit": record["provenance"].get("commit", ""),
        "precision": record["parts"]["precision"],
        "key": record["key"],
    }
    scores = dict(record["metrics"])
    scores |= {f"{CLASS_PREFIX}{name}": three for name, three in record["per_class"].items()}
    for metric, (value, low, high) in scores.items():
        yield {**same, "metric": metric, "value": value, "low": low, "high": high}
    if record["seconds_per_image"] is not None:
        yield {**same, "metric": "seconds_per_image", "value": record["seconds_per_image"]}


def _load(path: Path) -> dict[str, Any] | None:
    """Content of a record's JSON file; None with a warning if it is damaged."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["format"] == FORMAT and record["key"] == path.stem:
            return record
        problem = f"format {record['format']}, key {record['key']}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = f"{type(error).__name__}: {error}"
    warnings.warn(f"the record {path} is left out: it is damaged ({problem})", stacklevel=3)
    return None


def _read(path: Path) -> Report | None:
    """The report of a record; None with a warning if one of its files is damaged."""
    record = _load(path)
    if record is None:
        return None
    try:
        counts = path.with_suffix(".npz").read_bytes()
        if hashlib.sha256(counts).hexdigest() != record["counts_sha256"]:
            raise ValueError("the counts are not those of the record")
        arrays = unpack_counts(counts)
        stages = {n: make_settings(n, v) for n, v in record["recipe"]["stages"].items()}
        recipe = Recipe(record["recipe"]["name"], stages, dataset=record["recipe"]["dataset"])
        return Report(
            recipe, record["dataset"], record["model"], tuple(record["per_class"]),
            arrays["classes"], arrays["boundary"], arrays["calibration"], arrays["indices"],
            [tuple(pair) for pair in record["skipped"]], record["limit"],
            record["seconds_per_image"] or float("nan"), record["provenance"], record["notes"],
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, OvssError) as error:
        warnings.warn(f"the record {path} is left out: it is damaged ({error})", stacklevel=3)
        return None


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
    mine, theirs = recipe.resolved(), base.resolved()
    texts = [f"{name}=false" for name in theirs if name not in mine]
    for name, fields in mine.items():
        known = theirs.get(name)
        if known is None:
            known = json.loads(json.dumps(dataclasses.asdict(make_settings(name))))
            changed = [field for field in fields if fields[field] != known[field]]
            if not changed:
                texts.append(f"{name}=true")
        else:
            changed = [field for field in fields if fields[field] != known[field]]
        texts += [f"{name}.{field}={_yaml(fields[field])}" for field in changed]
    return texts


def _yaml(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10**9).strip()
    return text.removesuffix("...").strip()
