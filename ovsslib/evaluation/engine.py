"""The engine: segmenters over a data set, the trunk once per window, counts that survive a kill.

Finished evaluations are in the store (`store.py`); one pass over the images measures all recipes that it lacks
(`measuring.py`).
"""

import dataclasses
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, overload

from ovsslib import paths
from ovsslib.errors import DataError
from ovsslib.evaluation.keys import data_fingerprint, key_of, parts_of
from ovsslib.evaluation.measuring import Run, notes_on
from ovsslib.evaluation.passes import Measured, listed
from ovsslib.evaluation.report import Report
from ovsslib.evaluation.store import ResultsStore


@overload
def evaluate(
    segmenters: Measured,
    dataset: Any,
    limit: int | None = None,
    *,
    workers: int = 0,
    progress: bool = True,
    resume_folder: str | Path | None = None,
    on_error: Literal["stop", "skip"] = "stop",
    store: ResultsStore | bool = True,
    fresh: bool = False,
) -> Report: ...


@overload
def evaluate(
    segmenters: Sequence[Measured],
    dataset: Any,
    limit: int | None = None,
    *,
    workers: int = 0,
    progress: bool = True,
    resume_folder: str | Path | None = None,
    on_error: Literal["stop", "skip"] = "stop",
    store: ResultsStore | bool = True,
    fresh: bool = False,
) -> list[Report]: ...


def evaluate(
    segmenters: Measured | Sequence[Measured],
    dataset: Any,
    limit: int | None = None,
    *,
    workers: int = 0,
    progress: bool = True,
    resume_folder: str | Path | None = None,
    on_error: Literal["stop", "skip"] = "stop",
    store: ResultsStore | bool = True,
    fresh: bool = False,
) -> Report | list[Report]:
    """Measure one or many segmenters on a data set, the trunk run once per window for all of them.

    Args:
        segmenters: one (gives a Report) or several (a list of Reports in their order).
        dataset: from :func:`ovsslib.open_dataset`, or a sequence of (image, label, name) with `name`, `classes`,
            `ignore_index` and `vocabulary`. Words come from its vocabulary as each recipe's `text` settings ask.
        limit: the first images only.
        workers: threads that read ahead; counts do not depend on it.
        progress: show a bar with the running mIoU and the time left.
        resume_folder: where counts of an unfinished run are kept; None: the user's cache, if there is a store.
        on_error: "stop" at an image that cannot be used, or "skip" it and count it in the report.
        store: True: the user's results store; a ResultsStore; False: look nothing up and keep nothing.
        fresh: measure again even if the store has the result.

    Raises:
        DataError, ImageError: an image or a label map cannot be used; results cannot be written.
        RecipeError, WordsError: the recipe does not go with the data set's words.
        MemoryBudgetError: not even one window at a time fits into memory.
    """
    entries = listed(segmenters)
    _check_kinds(entries, dataset, workers)
    if on_error not in ("stop", "skip"):
        raise DataError(f"on_error={on_error!r}: choose 'stop' or 'skip'")
    chosen = _first_images(dataset, limit)
    if not entries:
        return []
    keeper = ResultsStore() if store is True else (store or None)
    parts = _key_parts(entries, chosen, on_error)
    reports: list[Report | None] = [None] * len(entries)
    if keeper is not None and not fresh:
        reports = [_stored(keeper, key_parts, on_error) for key_parts in parts]
    # Two segmenters of equal settings are one evaluation.
    first_of: dict[str, int] = {}
    for index, report in enumerate(reports):
        if report is None:
            first_of.setdefault(_identity(entries[index], parts[index]), index)
    missing = list(first_of.values())
    if missing:
        folder = _resume_root(resume_folder, keeper)
        run = Run(chosen, len(dataset), workers, progress, on_error, keeper, folder, fresh)
        measured = run.measure([(entries[i], parts[i]) for i in missing])
        for index, report in zip(missing, measured, strict=True):
            reports[index] = report
    named = []
    for segmenter, report, key_parts in zip(entries, reports, parts, strict=True):
        if report is None:  # equal to one that was measured
            report = reports[first_of[_identity(segmenter, key_parts)]]
        assert report is not None
        named.append(_named_as(report, segmenter))
    return named if segmenters is not entries[0] else named[0]


def _check_kinds(entries: Sequence[Any], dataset: Any, workers: int) -> None:
    """Raise DataError for names in place of what they name, and for no number of threads."""
    for entry in entries:
        if not hasattr(entry, "recipe"):
            raise DataError(
                f"{entry!r} is no segmenter; load it first, as in ovsslib.load('sclip'), or use measure() with names"
            )
    if isinstance(dataset, str) or not hasattr(dataset, "vocabulary"):
        named = repr(dataset) if isinstance(dataset, str) else type(dataset).__name__
        raise DataError(
            f"{named} is no data set; open it first, as in ovsslib.open_dataset('scenes')"
        )
    if not isinstance(workers, int) or workers < 0:
        raise DataError(f"workers={workers!r}: give a number of threads, 0 to read without any")


def look_up(
    segmenters: Sequence[Measured],
    dataset: Any,
    limit: int | None = None,
    *,
    store: ResultsStore | bool = True,
) -> list[Report | None]:
    """What :func:`evaluate` would find in the store for each segmenter; None: it would measure.

    Raises DataError as :func:`evaluate` does.
    """
    chosen = _first_images(dataset, limit)
    keeper = ResultsStore() if store is True else (store or None)
    if keeper is None or not segmenters:
        return [None] * len(segmenters)
    parts = _key_parts(segmenters, chosen, "stop")
    reports = [_stored(keeper, key_parts, "stop") for key_parts in parts]
    return [r and _named_as(r, s) for r, s in zip(reports, segmenters, strict=True)]


def _first_images(dataset: Any, limit: int | None) -> Any:
    """The data set cut to `limit` images. Raises DataError for a limit below 1 and for no images."""
    if limit is not None and (type(limit) is not int or limit < 1):
        raise DataError(f"limit={limit!r}: measure at least 1 image, a whole number")
    chosen = dataset if limit is None or limit >= len(dataset) else dataset[:limit]
    if not len(chosen):
        raise DataError(f"the data set {dataset.name!r} has no images")
    return chosen


def _key_parts(segmenters: Sequence[Measured], dataset: Any, on_error: str) -> list[dict | None]:
    """Key parts of each segmenter; None where weights or data cannot be told from others."""
    hashes = [s.backbone.weights_hash for s in segmenters]
    data = data_fingerprint(dataset, tolerant=on_error == "skip") if any(hashes) else None
    return [parts_of(s, dataset, data) if data else None for s in segmenters]


def _identity(segmenter: Measured, parts: dict | None) -> str:
    return key_of(parts) if parts else f"{id(segmenter.backbone)} {segmenter.recipe.key()}"


def _stored(store: ResultsStore, parts: dict | None, on_error: str) -> Report | None:
    report = store.get(parts) if parts else None
    if report is not None and report.skipped and on_error == "stop":
        return None
    return report


def _named_as(report: Report, segmenter: Measured) -> Report:
    """The report under the name that the caller's recipe has (equal recipes share a record), with its notes."""
    notes = notes_on(segmenter.recipe, report.dataset)
    for note in notes:
        warnings.warn(note, stacklevel=3)
    if report.recipe.name == segmenter.recipe.name and list(report.notes) == notes:
        return report
    return dataclasses.replace(report, recipe=segmenter.recipe, notes=notes)


def _resume_root(folder: str | Path | None, store: ResultsStore | None) -> Path | None:
    if folder is not None:
        return Path(folder)
    return paths.cache("resume") if store is not None else None
