"""Records that people send to each other: export from one results store, checked import into another.

A record holds counts per image, neither weights nor photographs, so a run of real CLIP on a real data set can be
handed on. An import believes nothing that it can check: the key must follow from what the record says was asked for,
the versions of the code must be this library's, the counts must be possible, and the scores must follow from them.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ovsslib import paths
from ovsslib.datasets.dataset import VIEWS
from ovsslib.errors import DataError, OvssError
from ovsslib.evaluation.keys import key_of
from ovsslib.evaluation.records import Record, RecordsFile, recipe_of, report_of, write_records
from ovsslib.evaluation.report import Report
from ovsslib.evaluation.store import ResultsStore
from ovsslib.identity import CORE_VERSION, recipe_parts

_ROUNDED = 2e-6  # scores are written with six decimals


@dataclass(frozen=True)
class Imported:
    """What became of the records of a file.

    Attributes:
        new: keys that the store did not have.
        known: keys that it had.
        refused: key -> why.
    """

    new: tuple[str, ...]
    known: tuple[str, ...]
    refused: Mapping[str, str]


def export_records(
    file: str | Path,
    dataset: str | None = None,
    model: str | None = None,
    store: ResultsStore | None = None,
) -> int:
    """Write the store's records that do not ship with the library into one file, for others; returns how many.

    Args:
        file: SQLite file to write, replaced as a whole.
        dataset: those of this data set only.
        model: those whose model's name holds this text only, such as "ViT-B-16".
        store: the user's, if None.

    Raises:
        DataError: no record fits, one is damaged, or the file cannot be written.
    """
    store = store or ResultsStore.ordinary()
    shipped = set(store.library_keys())
    rows, problems = [], []
    for record in store.records():
        content = record.content()
        if record.key in shipped or content is None:
            continue
        if dataset not in (None, content["dataset"]) or (model or "") not in content["model"]:
            continue
        problem = problem_with(record)
        if problem is None:
            rows.append((record.key, record.text, record.read_counts()))
        else:
            problems.append(f"{record.key}: {problem}")
    if problems:
        warnings.warn(f"{len(problems)} records are left out, first {problems[0]}", stacklevel=2)
    if not rows:
        filters = (("data set", dataset), ("model", model))
        criteria = [f"of {kind} {name!r}" for kind, name in filters if name]
        raise DataError(
            f"no record {' and '.join(criteria) or 'of your own'} in {store.folder} can be exported; `ovss evaluate` "
            "makes one, and `ovss results` lists what there is"
        )
    write_records(Path(file), rows)
    return len(rows)


def import_records(file: str | Path, store: ResultsStore | None = None) -> Imported:
    """Check the records of an exported file and put the sound ones into the user's store.

    Raises DataError if the file cannot be read or holds no records.
    """
    file = Path(file).expanduser()
    if not paths.is_file(file):
        raise DataError(
            f"there is no file {str(file)!r}; give one that `ovss results export` wrote"
        )
    store = store or ResultsStore.ordinary()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a damaged file is an error here, and its message is ours
        records = list(RecordsFile(file))
    if not records:
        raise DataError(
            f"{str(file)!r} holds no records, or is damaged; give a file that `ovss results export` wrote"
        )
    before = set(store.keys())
    new, repeated, refused = [], [], {}
    for record in records:
        problem = problem_with(record)
        if problem is not None:
            refused[record.key] = problem
        elif record.key in before:
            repeated.append(record.key)
        else:
            store.keep(record)
            new.append(record.key)
    return Imported(tuple(new), tuple(repeated), refused)


def problem_with(record: Record) -> str | None:
    """Why a record of another machine cannot be believed, or None.

    Checked: its key, its format, the versions of the code, the number of images, that the counts can be those of
    images, and that its scores are those of its counts. Whether the right pictures and weights were used shows only
    in their hashes, which are part of the key.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        content = record.content()
    if content is None:
        return "it is damaged, or of another format"
    try:
        if key_of(content["parts"]) != record.key:
            return "its key does not follow from what it says was measured"
        report = report_of(content, record.read_counts())
        return (
            _old_code(content)
            or _wrong_images(content, report)
            or _wrong_counts(report)
            or _wrong_scores(content, report)
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OvssError) as error:
        return f"it is damaged ({type(error).__name__}: {error})"


def _old_code(content: Mapping[str, Any]) -> str | None:
    parts = content["parts"]
    if parts["core"] != CORE_VERSION:
        return f"measured with core version {parts['core']}, and this library has {CORE_VERSION}; measure it again"
    today = recipe_parts(recipe_of(content))
    for name, part in today.items():
        then = parts["recipe"].get(name)
        if then is not None and then["version"] != part["version"]:
            return (
                f"measured with version {then['version']} of {name!r}, and this library has {part['version']}; "
                "measure it again"
            )
    return None if today == parts["recipe"] else "its recipe is not the one of its key"


def _wrong_images(content: Mapping[str, Any], report: Report) -> str | None:
    images, skipped = len(report.counts), len(content["skipped"])
    if not images == content["images"] == content["parts"]["images"] - skipped:
        return f"it says {content['images']} images, and has counts of {images}"
    if content["dataset"] not in VIEWS:
        return f"its data set {content['dataset']!r} is not one of the library's"
    _, _, classes, expected = VIEWS[content["dataset"]]
    if report.counts.shape[2] != classes:
        return f"{content['dataset']} has {classes} classes, and it has {report.counts.shape[2]}"
    if content["limit"] is None and expected not in (None, images + skipped):
        return (
            f"{content['dataset']} has {expected} images, and it has {images + skipped} without saying that it took "
            "a part; measure the whole, or give --limit"
        )
    if content["limit"] is not None and content["limit"] != images + skipped:
        return f"limited to {content['limit']} images, and it has {images + skipped}"
    return None


def _wrong_counts(report: Report) -> str | None:
    """Counts that no images can have."""
    intersection, prediction, label = (report.counts[:, place] for place in range(3))
    if (report.counts < 0).any() or (intersection > np.minimum(prediction, label)).any():
        return "its counts are impossible: more pixels agree than there are"
    if (prediction.sum(1) > label.sum(1)).any():  # fewer: words that stand for no class took some
        return "its counts are impossible: more pixels are predicted than are labelled"
    if len(set(report.indices.tolist())) != len(report.indices):
        return "it counts an image twice"
    return None


def _wrong_scores(content: Mapping[str, Any], report: Report) -> str | None:
    fresh = report.record()
    for part in ("metrics", "per_class"):
        for name, (value, *_) in content[part].items():
            again = fresh[part][name][0]
            if (value is None) != (again is None) or (
                value is not None and abs(value - again) > _ROUNDED
            ):
                return f"its {name} is {value}, and its counts give {again}"
    return None
