"""Reading a whole data set to say what is wrong with it."""

import os
from collections.abc import Iterator, Sequence

import numpy as np
from tqdm.auto import tqdm

from ovsslib.datasets.dataset import VIEWS, SegmentationDataset, open_dataset
from ovsslib.errors import OvssError


def check_dataset(
    name: str,
    root: str | os.PathLike | None = None,
    split: str = "val",
    words: Sequence[str] | None = None,
    progress: bool = True,
) -> list[str]:
    """Read a whole data set and list what is wrong with it, one line per problem; empty if all is
    well.

    Looks at the layout, the number of images, whether each image and label map can be read, their
    sizes, the label values, label maps without image, and (in a complete data set) classes that
    never occur.
    """
    try:
        dataset = open_dataset(name, root, split, words=words)
    except OvssError as error:
        return [_one_line(error)]
    problems = []
    expected = VIEWS[name][3] if name in VIEWS and split == "val" else None
    if expected is not None and len(dataset) != expected:
        problems.append(f"{name} {split} has {len(dataset)} images, expected {expected}")
    occurring, ignored = np.zeros(dataset.classes, dtype=bool), 0
    for index in tqdm(range(len(dataset)), desc=f"check {name}", disable=not progress):
        try:
            _, label, _ = dataset[index]
        except OvssError as error:
            problems.append(_one_line(error))
            continue
        present = np.unique(label)
        occurring[present[present != dataset.ignore_index]] = True
        ignored += int((label == dataset.ignore_index).sum())
    problems.extend(_orphans(dataset))
    if not problems and (unused := unused_classes(dataset.name, occurring, ignored)):
        problems.append(unused)
    if expected is not None and len(dataset) == expected and not occurring.all():
        never = ", ".join(str(value) for value in np.flatnonzero(~occurring)[:10])
        problems.append(
            f"{name} {split}: labels that never occur: {never}; are the masks converted?"
        )
    return problems


def unused_classes(name: str, occurring: np.ndarray, ignored: int) -> str:
    """What is wrong with label maps in which classes never occur while ignored pixels do; "" if nothing is.

    Args:
        occurring: (C,) bool, which labels occur. ignored: number of pixels with the label that is ignored.
    """
    if not occurring.any():
        return f"{name}: every pixel of every label map is ignored (255), so there is nothing to measure"
    never = np.flatnonzero(~occurring)
    if name != "folder" or not len(never) or not ignored:
        return ""
    listed = ", ".join(str(value) for value in never[:10])
    return (
        f"{name}: the labels {listed} never occur, but 255 does, which is ignored; masks of 0 and 255 must become "
        "0 and 1"
    )


def _orphans(dataset: SegmentationDataset) -> Iterator[str]:
    """Label files of the folder data sets that no image has."""
    if dataset.name != "folder":
        return
    label_files = {path for item in dataset.items for path, _ in item.masks}
    for folder in sorted({path.parent for path in label_files}):
        for path in sorted(folder.glob("*.png")):
            if path not in label_files:
                yield f"{path} has no image"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
