"""One pass over a data set for the segmenters that the store knows nothing of, resumed where one was cut off.

Segmenters with the same backbone, windows and views share the trunk; those that differ only behind the stitching
share the stitched logits too. The counts of every image are appended to a log at once (`resume.py`).
"""

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from tqdm.auto import tqdm

from ovsslib.clip.memory import FreeMemory, memory_errors
from ovsslib.comparators import Comparator
from ovsslib.datasets.checking import unused_classes
from ovsslib.datasets.dataset import VIEWS
from ovsslib.errors import DataError
from ovsslib.evaluation import metrics
from ovsslib.evaluation.distributed import Processes, assert_complete
from ovsslib.evaluation.keys import key_of
from ovsslib.evaluation.passes import (
    BAD_IMAGE,
    Measured,
    group_by_trunk,
    read_ahead,
    share_logits,
    with_smaller_chunks,
)
from ovsslib.evaluation.report import Report, provenance
from ovsslib.evaluation.resume import ImageCounts, ResumeLog
from ovsslib.evaluation.store import ResultsStore
from ovsslib.recipe import Recipe
from ovsslib.segmenter import PictureInput, Segmenter, Words, window_logits_of
from ovsslib.text.features import TextFeatures
from ovsslib.text.wording import ASKED


@dataclass(eq=False)
class _Measurement:
    """One segmenter's part of a run."""

    segmenter: Measured
    text: TextFeatures
    words: Words
    parts: dict[str, Any] | None
    log: ResumeLog
    done: dict[int, ImageCounts] = field(default_factory=dict)
    total: np.ndarray | None = None

    def add(self, record: ImageCounts) -> None:
        self.done[record.index] = record
        self.total = record.classes if self.total is None else self.total + record.classes


class Run:
    """One pass over a data set for the segmenters that are not in the store."""

    def __init__(
        self,
        dataset: Any,
        dataset_size: int,
        workers: int,
        progress: bool,
        on_error: str,
        store: ResultsStore | None,
        folder: Path | None,
        fresh: bool,
    ) -> None:
        self.dataset, self.dataset_size, self.fresh = dataset, dataset_size, fresh
        self.workers, self.progress, self.on_error = workers, progress, on_error
        self.store, self.folder = store, folder
        self.skipped: dict[int, tuple[str, str]] = {}
        self.processes = Processes()

    def measure(self, entries: Sequence[tuple[Measured, dict | None]]) -> list[Report]:
        """Reports of the segmenters, in their order."""
        self.processes = Processes.current(entries[0][0].backbone.device)
        jobs = [self._job(segmenter, parts) for segmenter, parts in entries]
        indices = self.processes.share(len(self.dataset))
        if self.fresh:
            if self.processes.first:
                for job in jobs:
                    job.log.remove()
            self.processes.barrier()
        started = time.perf_counter()
        try:
            for job in jobs:
                for record in job.log.done().values():
                    if record.index in indices:
                        job.add(record)
            resumed = min(len(job.done) for job in jobs)
            self._pass([i for i in indices if any(i not in job.done for job in jobs)], jobs)
            for job in jobs:
                job.log.close()
            return self._finish(jobs, time.perf_counter() - started, resumed)
        finally:
            for job in jobs:
                job.log.close()

    def _job(self, segmenter: Measured, parts: dict | None) -> _Measurement:
        vocabulary = segmenter.recipe["text"].vocabulary(self.dataset.vocabulary)
        more = len(vocabulary) - self.dataset.classes
        if more and (more, vocabulary.variant) != (1, ASKED):
            raise DataError(
                f"{self.dataset.name!r} has {self.dataset.classes} classes but {len(vocabulary)} words; give one word "
                "per class"
            )
        text = segmenter.text(vocabulary, share=False)
        log = ResumeLog(_folder_of(self.folder, parts))
        return _Measurement(segmenter, text, segmenter.words(text), parts, log)

    def _pass(self, indices: list[int], jobs: list[_Measurement]) -> None:
        groups = group_by_trunk([job.segmenter for job in jobs])
        show = self.progress and self.processes.first and indices
        bar = tqdm(total=len(indices), desc=self.dataset.name, unit="image", disable=not show)
        memory = FreeMemory()
        with bar:
            for index, item in read_ahead(self.dataset, indices, self.workers):
                try:
                    if isinstance(item, Exception):
                        raise item
                    records = self._image(index, item, [[jobs[i] for i in g] for g in groups])
                except BAD_IMAGE as error:
                    if self.on_error == "stop":
                        raise
                    self.skipped[index] = (self._name(index), " ".join(str(error).split()))
                    for job in jobs:  # a run before this one may have got further with some recipes
                        job.done.pop(index, None)
                else:
                    for job, record in records:
                        job.log.append(record)
                        job.add(record)
                memory.between_pictures()
                bar.set_postfix_str(_running(jobs), refresh=False)
                bar.update()

    def _name(self, index: int) -> str:
        items = getattr(self.dataset, "items", None)
        return items[index].name if items else str(index)

    def _image(
        self, index: int, item: tuple, groups: list[list[_Measurement]]
    ) -> list[tuple[_Measurement, ImageCounts]]:
        """Counts of one image for every job that lacks them."""
        image, label = item[0], item[1]
        records: list[tuple[_Measurement, ImageCounts]] = []
        for group in groups:
            group = [job for job in group if index not in job.done]
            if group:
                work = partial(self._group, index, image, label, group)
                counts = with_smaller_chunks(group[0].segmenter.backbone, work)
                records.extend(zip(group, counts, strict=True))
        return records

    def _group(
        self, index: int, image: np.ndarray, label: np.ndarray, jobs: list[_Measurement]
    ) -> list[ImageCounts]:
        """Counts of one image for jobs that share a trunk."""
        if hasattr(jobs[0].segmenter, "labelled"):  # a trained model, which has no windows to share
            return [self._labelled(index, image, label, job) for job in jobs]
        segmenters = [cast("Segmenter", job.segmenter) for job in jobs]
        started = time.perf_counter()
        picture = PictureInput(segmenters[0].prepare(image), image)
        leaders, leader_of = share_logits(segmenters, [job.words for job in jobs])
        size = (image.shape[0], image.shape[1])
        stitched = window_logits_of(
            [segmenters[i] for i in leaders], picture, [jobs[i].words for i in leaders], size
        )
        stitched_of = dict(zip(leaders, stitched, strict=True))
        shared = (time.perf_counter() - started) / len(jobs)
        records = []
        for job, segmenter, leader in zip(jobs, segmenters, leader_of, strict=True):
            started = time.perf_counter()
            with torch.no_grad(), memory_errors():
                finished = segmenter.finish(
                    stitched_of[leader], image, picture, job.text, confidence=True
                )
            assert finished.confidence is not None  # asked for
            seconds = shared + time.perf_counter() - started
            records.append(
                self._counts(index, finished.labels, finished.confidence, label, seconds)
            )
        return records

    def _labelled(
        self, index: int, image: np.ndarray, label: np.ndarray, job: _Measurement
    ) -> ImageCounts:
        """Counts of one image for a model that labels it by itself."""
        started = time.perf_counter()
        labels, confidence = cast("Comparator", job.segmenter).labelled(image, job.text)
        return self._counts(index, labels, confidence, label, time.perf_counter() - started)

    def _counts(
        self,
        index: int,
        labels: np.ndarray,
        confidence: np.ndarray,
        label: np.ndarray,
        seconds: float,
    ) -> ImageCounts:
        ignore, classes = self.dataset.ignore_index, self.dataset.classes
        # Words that stand for no class (`text.words`) have the label behind the last one: pixels that go there are
        # missed by their own class, and no class of the mean.
        counts = metrics.image_counts(labels, label, classes + 1, ignore)[:, :classes]
        return ImageCounts(
            index,
            counts,
            metrics.boundary_counts(labels, label, ignore),
            metrics.calibration_counts(confidence, labels, label, ignore),
            seconds,
        )

    def _finish(self, jobs: list[_Measurement], elapsed: float, resumed: int) -> list[Report]:
        """Reports from the counts of all processes; the first process stores them."""
        skipped = sorted(self.processes.gather(list(self.skipped.items())))
        reports = []
        for job in jobs:
            counts = _gathered(job, len(self.dataset), self.dataset.classes, self.processes)
            assert_complete(counts["done"], len(skipped))
            self._check_labels(counts, len(skipped))
            reports.append(self._report(job, counts, [why for _, why in skipped], elapsed, resumed))
        if self.processes.first:
            for job, report in zip(jobs, reports, strict=True):
                if self.store is not None and job.parts and report.images:
                    self.store.put(job.parts, report)
        self.processes.barrier()
        if self.processes.first and self.store is not None:
            for job in jobs:
                job.log.remove()
        return reports

    def _check_labels(self, counts: dict, skipped: int) -> None:
        """Raise DataError where nothing was measured; warn of masks of 0 and 255 in a folder data set."""
        if not counts["done"].any():
            raise DataError(
                f"{self.dataset.name}: all {skipped} images were skipped, so there is nothing to measure; `ovss data "
                "check` lists what is wrong with them"
            )
        present = counts["classes"][:, 2].sum(axis=0) > 0
        ignored = 0
        if not present.all() and hasattr(self.dataset, "label") and self.processes.first:
            some = np.flatnonzero(counts["done"])[:8]
            ignored = sum(
                int((self.dataset.label(i) == self.dataset.ignore_index).sum()) for i in some
            )
        problem = unused_classes(self.dataset.name, present, ignored)
        if problem and not present.any():
            raise DataError(problem)
        if problem:
            warnings.warn(problem, stacklevel=6)

    def _report(
        self, job: _Measurement, counts: dict, skipped: list, elapsed: float, resumed: int
    ) -> Report:
        counted = np.flatnonzero(counts["done"])
        dataset, backbone = self.dataset, job.segmenter.backbone
        official = getattr(dataset, "split", "val") == "val"
        expected = VIEWS.get(dataset.name, (None,) * 4)[3] if official else None
        expected = expected or self.dataset_size
        origin = provenance(backbone.device)
        origin |= {
            "threads": torch.get_num_threads(),
            "processes": self.processes.count,
            "windows_per_chunk": backbone.batch_of_windows,
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "wall_seconds": round(elapsed, 1),
            "resumed_images": resumed,
        }
        return Report(
            recipe=job.segmenter.recipe,
            dataset=dataset.name,
            model=model_name(backbone),
            names=tuple(job.text.vocabulary.names[: dataset.classes]),
            counts=counts["classes"][counted],
            boundary_counts=counts["boundary"][counted],
            calibration_counts=counts["calibration"][counted],
            indices=counted,
            skipped=skipped,
            limit=len(dataset) if len(dataset) < expected else None,
            seconds_per_image=counts["microseconds"].sum() / 1e6 / max(1, len(counted)),
            provenance=origin,
            notes=notes_on(job.segmenter.recipe, dataset.name),
        )


def model_name(backbone: Any) -> str:
    """Name and weights of a model as results carry them: "ViT-B-16-quickgelu/openai"."""
    return f"{backbone.name}/{backbone.pretrained}" if backbone.pretrained else str(backbone.name)


def _gathered(
    job: _Measurement, images: int, classes: int, processes: Processes
) -> dict[str, np.ndarray]:
    """Counts of all images as dense arrays, summed over the processes; `done` says how often each was counted."""
    arrays = {
        "done": np.zeros(images, dtype=np.int64),
        "classes": np.zeros((images, 3, classes), dtype=np.int64),
        "boundary": np.zeros((images, 4), dtype=np.int64),
        "calibration": np.zeros((images, metrics.CALIBRATION_BINS, 3), dtype=np.int64),
        "microseconds": np.zeros(images, dtype=np.int64),
    }
    for index, record in job.done.items():
        arrays["done"][index] = 1
        arrays["classes"][index] = record.classes
        arrays["boundary"][index] = record.boundary
        arrays["calibration"][index] = record.calibration
        arrays["microseconds"][index] = round(record.seconds * 1e6)
    return {name: processes.sum(array) for name, array in arrays.items()}


def _running(jobs: list[_Measurement]) -> str:
    """What the bar says: mIoU so far, or its range over several recipes."""
    values = [100 * float(metrics.miou(job.total)) for job in jobs if job.total is not None]
    if not values:
        return ""
    if len(values) == 1:
        return f"mIoU {values[0]:.1f} %"
    return f"mIoU {min(values):.1f} to {max(values):.1f} %"


def notes_on(recipe: Recipe, dataset: str) -> list[str]:
    """What a reader of a result should know: a recipe that was tuned for another data set."""
    if not recipe.dataset or recipe.dataset == dataset:
        return []
    return [
        f"recipe {recipe.name!r} carries the settings that were tuned for {recipe.dataset}, and is measured on {dataset}"
    ]


def _folder_of(root: Path | None, parts: dict | None) -> Path | None:
    """Folder of one evaluation's unfinished counts; none where it cannot be told from others."""
    return root / key_of(parts) if root is not None and parts else None
