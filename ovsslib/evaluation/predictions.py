"""Label maps of segmenters over a data set, for analyses that must see every pixel.

The results store keeps counts only. What is wrong where needs the label maps themselves; they are
made in one pass (trunk and stitched logits shared as in the engine) and kept, compressed, in the
user's cache.
"""

import dataclasses
import io
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from tqdm.auto import tqdm

from ovsslib import paths
from ovsslib.clip.memory import FreeMemory
from ovsslib.comparators import Comparator
from ovsslib.errors import DataError
from ovsslib.evaluation.keys import data_fingerprint, key_of, parts_of
from ovsslib.evaluation.passes import Measured, group_by_trunk, listed, share_logits
from ovsslib.segmenter import PictureInput, Segmenter, window_logits_of
from ovsslib.text.features import TextFeatures
from ovsslib.text.vocabulary import Vocabulary


@dataclass(frozen=True, eq=False)
class Predictions:
    """Label maps of one segmenter, image by image.

    Attributes:
        segmenter: what made them.
        dataset: the images they are of, in order.
        vocabulary: the classes; a label map's values are their indices.
        present_only: whether each image was segmented with its own words only (:func:`predict`).
    """

    segmenter: Measured
    dataset: Any
    vocabulary: Vocabulary
    present_only: bool
    _archive: Any = dataclasses.field(repr=False)

    @property
    def name(self) -> str:
        """Name of the recipe."""
        return self.segmenter.recipe.name

    def __len__(self) -> int:
        return len(self.dataset)

    def mask(self, index: int) -> np.ndarray:
        """Predicted labels (H, W) int32 of an image. Raises DataError for an index that is not
        there."""
        if not 0 <= index < len(self):
            raise DataError(f"there is no image {index} among the {len(self)} that were segmented")
        return self._archive[str(index)].astype(np.int32)

    def pairs(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """(index, predicted labels, true labels) of every image."""
        for index in range(len(self)):
            yield index, self.mask(index), true_label(self.dataset, index)


@dataclass(eq=False)
class _LabelMaps:
    segmenter: Measured
    text: TextFeatures
    path: Path | None
    buffer: io.BytesIO
    archive: zipfile.ZipFile


def true_label(dataset: Any, index: int) -> np.ndarray:
    """Label map (H, W) of an image of a data set, without reading its picture where that is
    possible."""
    alone = getattr(dataset, "label", None)
    return alone(index) if alone is not None else dataset[index][1]


def predict(
    segmenters: Measured | Sequence[Measured],
    dataset: Any,
    limit: int | None = None,
    *,
    present_only: bool = False,
    keep: bool = True,
    progress: bool = False,
) -> list[Predictions]:
    """Label maps of one or several segmenters on a data set.

    Args:
        segmenters, dataset, limit: as :func:`ovsslib.evaluate` takes them.
        present_only: give each image only the words of the classes in its label map (and the
            background class, if the vocabulary has one: it stands for all else): what an oracle for
            the words would do.
        keep: look in the user's cache first, and keep what is made there.
        progress: show a bar.

    Raises:
        DataError: no images, or images and words that do not fit.
        ImageError, RecipeError, MemoryBudgetError: as the segmenters raise them.
    """
    entries = listed(segmenters)
    chosen = dataset if limit is None or limit >= len(dataset) else dataset[:limit]
    if not len(chosen):
        raise DataError(f"the data set {dataset.name!r} has no images")
    identified = keep and any(segmenter.backbone.weights_hash for segmenter in entries)
    data = data_fingerprint(chosen) if identified else None
    jobs = [_label_maps(segmenter, chosen, present_only, data) for segmenter in entries]
    archives = [_stored(job.path, len(chosen)) for job in jobs]
    open_jobs = [job for job, archive in zip(jobs, archives, strict=True) if archive is None]
    groups = group_by_trunk([job.segmenter for job in open_jobs])
    bar = tqdm(range(len(chosen)) if open_jobs else (), desc=chosen.name, disable=not progress)
    memory = FreeMemory()
    for index in bar:
        image, label = chosen[index][:2]
        for group in groups:
            members = [open_jobs[place] for place in group]
            for job, mask in zip(members, _masks(members, image, label, present_only), strict=True):
                _write(job.archive, str(index), mask)
        memory.between_pictures()
    for job in open_jobs:
        _close(job)
    predictions = []
    for job, archive in zip(jobs, archives, strict=True):
        archive = archive or np.load(io.BytesIO(job.buffer.getvalue()), allow_pickle=False)
        predictions.append(
            Predictions(job.segmenter, chosen, job.text.vocabulary, present_only, archive)
        )
    return predictions


def _label_maps(
    segmenter: Measured, dataset: Any, present_only: bool, data: str | None
) -> _LabelMaps:
    vocabulary = segmenter.recipe["text"].vocabulary(dataset.vocabulary)
    if len(vocabulary) != dataset.classes:
        raise DataError(
            f"{dataset.name!r} has {dataset.classes} classes but {len(vocabulary)} words; give one "
            "word per class"
        )
    path = None
    parts = parts_of(segmenter, dataset, data) if data else None
    if parts is not None:
        key = key_of({**parts, "label_maps": "present words" if present_only else "all words"})
        path = paths.cache("predictions") / f"{key}.npz"
    buffer = io.BytesIO()
    archive = zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED)
    return _LabelMaps(segmenter, segmenter.text(vocabulary, share=False), path, buffer, archive)


def _stored(path: Path | None, images: int) -> Any | None:
    """Label maps kept before, or None; damaged files count as absent."""
    if path is None or not path.is_file():
        return None
    try:
        content = path.read_bytes()
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            complete = archive.testzip() is None and len(archive.namelist()) == images
        return np.load(io.BytesIO(content), allow_pickle=False) if complete else None
    except (OSError, ValueError, zipfile.BadZipFile):
        return None


def _masks(
    jobs: Sequence[_LabelMaps], image: np.ndarray, label: np.ndarray, present_only: bool
) -> list[np.ndarray]:
    """Label maps of one image for segmenters that share a trunk."""
    texts = [job.text for job in jobs]
    classes: list[np.ndarray | None] = [None] * len(jobs)
    if present_only:
        restricted = [restrict(job.text, np.unique(label)) for job in jobs]
        texts, classes = [text for text, _ in restricted], [index for _, index in restricted]
    if hasattr(jobs[0].segmenter, "labelled"):  # a trained model, which has no windows to share
        (text,), (index,) = texts, classes
        mask = cast("Comparator", jobs[0].segmenter).labelled(image, text)[0]
        return [mask if index is None else index[mask]]
    segmenters = [cast("Segmenter", job.segmenter) for job in jobs]
    with torch.no_grad():
        words = [s.words(text) for s, text in zip(segmenters, texts, strict=True)]
        picture = PictureInput(segmenters[0].prepare(image), image)
        leaders, leader_of = share_logits(segmenters, words)
        size = (image.shape[0], image.shape[1])
        stitched = window_logits_of(
            [segmenters[i] for i in leaders], picture, [words[i] for i in leaders], size
        )
        by_leader = dict(zip(leaders, stitched, strict=True))
        masks = []
        for segmenter, text, index, leader in zip(
            segmenters, texts, classes, leader_of, strict=True
        ):
            mask = segmenter.finish(by_leader[leader], image, picture, text).labels
            masks.append(mask if index is None else index[mask])
    return masks


def restrict(text: TextFeatures, present: np.ndarray) -> tuple[TextFeatures, np.ndarray]:
    """Text features of some classes alone, and the original class of each that is left.

    Args:
        text: features of all classes.
        present: class numbers; those beyond the classes (ignored pixels) are passed over. The
            background class, if there is one, is always kept; with no class at all, everything is.

    Returns:
        The features, whose vocabulary has the kept classes in their order, and their class numbers
        (K,) int32.
    """
    words = text.vocabulary
    chosen = {int(c) for c in present if 0 <= c < len(words)} or set(range(len(words)))
    if words.background is not None:
        chosen.add(words.background)
    classes = sorted(chosen)

    def pick(values: Sequence) -> tuple:
        return tuple(values[c] for c in classes)

    part = dataclasses.replace(
        words,
        names=pick(words.names),
        synonyms=pick(words.synonyms),
        kinds=pick(words.kinds),
        groups=pick(words.groups),
        canonical=pick(words.canonical),
    )
    query_class = text.query_class.cpu()
    rows = torch.isin(query_class, torch.tensor(classes))
    renumbered = torch.searchsorted(torch.tensor(classes), query_class[rows])
    device = text.features.device
    features = text.features[rows.to(device)]
    return TextFeatures(features, renumbered.to(device), part), np.array(classes, dtype=np.int32)


def _write(archive: zipfile.ZipFile, name: str, mask: np.ndarray) -> None:
    content = io.BytesIO()
    small = mask.astype(np.min_scalar_type(max(0, int(mask.max(initial=0)))))
    np.save(content, small, allow_pickle=False)
    archive.writestr(zipfile.ZipInfo(f"{name}.npy"), content.getvalue(), zipfile.ZIP_DEFLATED)


def _close(job: _LabelMaps) -> None:
    job.archive.close()
    if job.path is None:
        return
    try:
        paths.write_file(job.path, job.buffer.getvalue(), make_folder=True)
    except DataError as error:
        warnings.warn(f"the label maps are not kept: {error}", stacklevel=3)
