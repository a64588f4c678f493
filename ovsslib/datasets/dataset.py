"""The benchmarks of the field, read from the mmsegmentation folder layout without mmsegmentation.

`open_dataset("voc21", root=...)` gives a sequence of (image, label, name). Where labels can be
stored raw or converted (COCO, Cityscapes) both are read, converted files first, and give the same
labels.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ovsslib import paths
from ovsslib.datasets import label_tables as labels
from ovsslib.datasets.file_hashes import file_hashes
from ovsslib.errors import DataError, ImageError, WordsError
from ovsslib.images.pictures import PICTURE_SUFFIXES, open_untouched, read_picture
from ovsslib.text.cleaning import clean_word, lines_of_file, split_synonyms

VIEWS = {
    "voc21": ("VOCdevkit/VOC2012", "voc21", 21, 1449),
    "voc20": ("VOCdevkit/VOC2012", "voc20", 20, 1449),
    "context60": ("VOCdevkit/VOC2010", "context60", 60, 5104),
    "context59": ("VOCdevkit/VOC2010", "context59", 59, 5104),
    "coco_stuff": ("coco_stuff164k", "coco_stuff", 171, 5000),
    "coco_stuff10k": ("coco_stuff10k", "coco_stuff", 171, 1000),
    "coco_object": ("coco_object", "coco_object", 81, 5000),
    "cityscapes": ("cityscapes", "cityscapes", 19, 500),
    "ade20k": ("ADEChallengeData2016", "ade20k", 150, 2000),
    "scenes": ("scenes", "scenes", 34, None),
    "scenes-object": ("scenes", "scenes-object", 21, None),
    "scenes-things": ("scenes", "scenes-things", 20, None),
}
"""Data set -> usual folder, vocabulary, number of classes, number of validation images."""


@dataclass(frozen=True)
class Layout:
    """Where the images and label files of one split lie under the root, and what the labels mean.

    `masks` lists (suffix, table name) in order of preference; `list_file` is a text file of image
    ids, or None where every file of the folder belongs to the split.
    """

    images: str
    annotations: str
    image_suffix: str
    masks: tuple[tuple[str, str], ...]
    list_file: str | None = None


@dataclass(frozen=True)
class Item:
    """One image: its name within the data set, its file, and the files its labels may be in."""

    name: str
    image: Path
    masks: tuple[tuple[Path, str], ...]


@cache
def _table(name: str) -> np.ndarray:
    """A lookup table by name: `identity-21`, `reduced-20`, or a function of `labels`."""
    kind, _, classes = name.partition("-")
    if kind == "identity":
        return labels.identity(int(classes))
    if kind == "reduced":
        return labels.reduce_zero_label(int(classes))
    return getattr(labels, name)()


def dataset_names() -> tuple[str, ...]:
    """Names that `open_dataset` knows."""
    return (*VIEWS, "folder")


def open_dataset(
    name: str,
    root: str | os.PathLike | None = None,
    split: str = "val",
    limit: int | None = None,
    words: Any = None,
) -> "SegmentationDataset":
    """Open a data set: a sequence of (image (H, W, 3) uint8 RGB, label (H, W), name).

    `root` is the data set's own folder or the folder that holds the data sets under their usual
    names (`VOCdevkit/VOC2012`, `coco_stuff164k`, ...); without it `$OVSSLIB_DATA` is used. Scenes
    come with the library and need none. `limit` keeps the first images only. `words` are the
    classes of a `folder` (a list, a text or a Vocabulary; otherwise its `words.txt`: one class per
    line, read as :mod:`ovsslib.text.cleaning` says).

    A `folder` has `images/` and `annotations/` (or `masks/`, `labels/`), each perhaps with a
    subfolder for the split; masks are index PNGs with the image's stem; up to 255 classes 255 is
    ignored, above that 65535.

    Raises DataError for an unknown name or split, a missing folder or list, or no images.
    """
    if limit is not None and (type(limit) is not int or limit < 1):
        raise DataError(f"limit must be a whole number of at least 1, or None, not {limit!r}")
    if name == "folder":
        dataset = _open_folder(root, split, words)
    elif name in VIEWS:
        if words is not None:
            raise DataError(f"{name} has its own words; only the data set 'folder' takes `words`")
        folder, vocabulary, classes, _ = VIEWS[name]
        layout = _layout(name, split)
        base = _find_root(name, root, folder, layout)
        items = list(_items(layout, base))
        dataset = SegmentationDataset(name, split, items, classes, vocabulary=vocabulary)
    else:
        raise DataError(f"unknown data set {name!r}; there are {', '.join(dataset_names())}")
    return dataset if limit is None else dataset[:limit]


class SegmentationDataset(Sequence):
    """Images with label maps; `dataset[i]` is (image, label, name), a slice is a smaller data set.

    image: (H, W, 3) uint8 RGB at its original size; label: (H, W) uint8 (int32 above 255 classes),
    values 0..classes-1 or `ignore_index`. Reading one image raises ImageError or DataError with the
    file's path.
    """

    def __init__(
        self,
        name: str,
        split: str,
        items: Sequence[Item],
        classes: int,
        vocabulary: str | None = None,
        words: Sequence[str] | None = None,
    ):
        self.name = name
        self.split = split
        self.items = tuple(items)
        self.classes = classes
        self.ignore_index = 255 if classes <= 255 else 65535
        self._vocabulary = vocabulary
        self._words = None if words is None else tuple(words)

    def __repr__(self) -> str:
        return f"<{self.name} {self.split}: {len(self)} images, {self.classes} classes>"

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index):
        if isinstance(index, slice):
            chosen = self.items[index]
            return SegmentationDataset(
                self.name, self.split, chosen, self.classes, self._vocabulary, self._words
            )
        image_path, mask_path = self.paths(index)
        image = read_picture(image_path)
        label = self._read_label(mask_path, self._form(index)[1])
        if label.shape != image.shape[:2]:
            raise DataError(
                f"{mask_path} is {label.shape[1]} x {label.shape[0]} pixels, but its image "
                f"{image_path} is {image.shape[1]} x {image.shape[0]}; fetch or convert both again"
            )
        return image, label, self.items[index].name

    @cached_property
    def vocabulary(self):
        """The words of the classes, in label order (an `ovsslib.text.vocabulary.Vocabulary`)."""
        from ovsslib.text.vocabulary import Vocabulary

        if self._vocabulary is not None:
            return Vocabulary.named(self._vocabulary)
        return Vocabulary.from_words(
            "\n".join(self._words) if len(self._words) > 1 else list(self._words)
        )

    def paths(self, index: int) -> tuple[Path, Path]:
        """Files of image and label map. Raises DataError when the label map is missing."""
        return self.items[index].image, self._form(index)[0]

    def label(self, index: int) -> np.ndarray:
        """The label map alone, (H, W): cheaper than `dataset[index]`; its size is not compared."""
        return self._read_label(*self._form(index))

    def fingerprint(self) -> str:
        """16 hex digits that change when an image or a label file is added, lost, renamed or
        changed.

        Over names and the contents of image and label files, whatever folder they are in. Raises
        DataError for a file that is missing.
        """
        files = [self.paths(index) for index in range(len(self))]
        contents = file_hashes(file for pair in files for file in pair)
        digest = hashlib.sha256(f"{self.name}\n{self.classes}\n".encode())
        for item, (image, mask) in zip(self.items, files, strict=True):
            for file in (image, mask):
                if contents[file] is None:
                    raise DataError(
                        f"{file} is missing or cannot be read; fetch the data set again"
                    )
            digest.update(f"{item.name}\t{contents[image]}\t{contents[mask]}\n".encode())
        return digest.hexdigest()[:16]

    def _form(self, index: int) -> tuple[Path, str]:
        """File and table of an item's label map."""
        item = self.items[index]
        for path, table in item.masks:
            if path.is_file():
                return path, table
        candidates = " or ".join(str(path) for path, _ in item.masks)
        raise DataError(
            f"no label map for {item.image}: {candidates} is missing; fetch or convert it"
        )

    def _read_label(self, path: Path, table: str) -> np.ndarray:
        stored = read_mask(path)
        if table != "wide":
            return labels.relabel(stored, _table(table), str(path))
        wrong = np.unique(stored[(stored >= self.classes) & (stored != self.ignore_index)])
        if wrong.size or (stored < 0).any():
            raise DataError(
                f"{path} holds the label {wrong[0] if wrong.size else stored.min()}, but there are "
                f"{self.classes} words; ignored pixels are {self.ignore_index}"
            )
        return stored.astype(np.int32)


def read_mask(path: str | os.PathLike) -> np.ndarray:
    """Read an index mask as it is stored, (H, W) integers: palette indices, grey values, 8 or 16
    bits.

    Raises DataError with the path when it is missing, damaged, or a colour picture.
    """
    path = Path(path)
    try:
        with open_untouched(path) as image:
            if image.mode == "1":
                return np.asarray(image).astype(np.uint8)
            if image.mode not in ("P", "L", "I") and not image.mode.startswith("I;16"):
                raise DataError(
                    f"{path} is a picture of mode {image.mode}, not an index mask; "
                    "save class numbers as an 8-bit or 16-bit grey or palette PNG"
                )
            return np.asarray(image)
    except ImageError as error:
        raise DataError(str(error)) from error
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"{path} cannot be read as a label map ({type(error).__name__}: {error}); "
            "fetch or convert it again"
        ) from error


def _layout(name: str, split: str) -> Layout:
    """The published layout of a data set's split; raises DataError for an unknown split."""
    classes = VIEWS[name][2]
    forms: tuple[tuple[str, str], ...]
    if name in ("voc21", "voc20", "context60", "context59"):
        lists = "Segmentation" if name.startswith("voc") else "SegmentationContext"
        masks = "SegmentationClass" if name.startswith("voc") else "SegmentationClassContext"
        table = f"identity-{classes}" if name in ("voc21", "context60") else f"reduced-{classes}"
        file = f"ImageSets/{lists}/{_folder_of(name, split, train='train', val='val')}.txt"
        return Layout("JPEGImages", masks, ".jpg", ((".png", table),), file)
    if name.startswith("scenes"):
        view = {"scenes": f"identity-{classes}", "scenes-object": "scenes_object"}
        forms = ((".png", view.get(name, "scenes_things")),)
        part = _folder_of(name, split, train="train", dev="dev", val="val", test="test")
    elif name == "ade20k":
        forms = ((".png", f"reduced-{classes}"),)
        part = _folder_of(name, split, train="training", val="validation")
    elif name == "coco_stuff10k":
        forms = (("_labelTrainIds.png", f"reduced-{classes}"),)
        part = _folder_of(name, split, train="train2014", val="test2014", test="test2014")
    elif name == "cityscapes":
        part = _folder_of(name, split, train="train", val="val")
        forms = (
            ("_gtFine_labelTrainIds.png", f"identity-{classes}"),
            ("_gtFine_labelIds.png", "cityscapes_raw"),
        )
        return Layout(f"leftImg8bit/{part}", f"gtFine/{part}", "_leftImg8bit.png", forms)
    else:
        converted = {"coco_stuff": "_labelTrainIds.png", "coco_object": "_instanceTrainIds.png"}[
            name
        ]
        forms = ((converted, f"identity-{classes}"), (".png", f"{name}_raw"))
        part = _folder_of(name, split, train="train2017", val="val2017")
    return Layout(f"images/{part}", f"annotations/{part}", ".jpg", forms)


def _folder_of(name: str, split: str, **folders: str) -> str:
    if split not in folders:
        raise DataError(f"{name} has no split {split!r}; there are {', '.join(folders)}")
    return folders[split]


def _find_root(name: str, root: str | os.PathLike | None, folder: str, layout: Layout) -> Path:
    """The folder that holds the layout: the root itself or the usual folder in it."""
    root = _given_root(name, root)
    usual = [folder, Path(folder).name]
    # COCO-Object shares its images and raw label maps with COCO-Stuff.
    usual += ["coco_stuff164k", "coco"] if name == "coco_object" else []
    for candidate in [root, *(root / part for part in usual)]:
        if (candidate / layout.images).is_dir():
            return candidate
    remedy = "see the data page of the book for the layout"
    if folder == "scenes":
        remedy = (
            "draw it with `ovss scenes make` or `ovss scenes test`, and give its folder as root"
        )
    raise DataError(
        f"{name} is not in {root}: there is no folder {layout.images} in it or in its {folder}; {remedy}"
    )


def _given_root(name: str, root: str | os.PathLike | None) -> Path:
    if root is None and name.startswith("scenes"):
        root = paths.data("scenes")
    root = root or os.environ.get("OVSSLIB_DATA")
    if not root:
        raise DataError(f"{name} needs a folder: give root=..., or set OVSSLIB_DATA to it")
    root = Path(root).expanduser()
    if not paths.is_dir(root):
        raise DataError(f"the data folder {root} does not exist; give the right root for {name}")
    return root


def _items(layout: Layout, base: Path) -> Iterator[Item]:
    """The items of a layout, in the order of the list file or of the sorted names."""
    images, annotations = base / layout.images, base / layout.annotations
    if not annotations.is_dir():
        raise DataError(f"the folder of label maps {annotations} is missing; fetch or convert it")
    if layout.list_file is None:
        ids = sorted(
            path.relative_to(images).as_posix()[: -len(layout.image_suffix)]
            for path in paths.files_below(images)
            if path.name.endswith(layout.image_suffix)
        )
    else:
        ids = _read_list(base / layout.list_file)
    if not ids:
        raise DataError(f"no images: {images} has no *{layout.image_suffix} (or the list is empty)")
    for name in ids:
        masks = tuple((annotations / f"{name}{suffix}", table) for suffix, table in layout.masks)
        yield Item(name, images / f"{name}{layout.image_suffix}", masks)


def _read_list(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"the list of images {path} cannot be read ({error}); fetch it again"
        ) from error
    return [line.split()[0] for line in lines if line.strip()]


def _open_folder(root, split: str, words: Any) -> SegmentationDataset:
    root = _given_root("folder", root)
    images = _first_folder(root, ("images", "img_dir", "JPEGImages"), split)
    masks = _first_folder(root, ("annotations", "masks", "labels", "ann_dir"), split)
    words = _lines_of(root) if words is None else _given_words(words)
    if not words:
        raise DataError(f"no words for {root}: give at least one")
    names = [clean_word((split_synonyms(word) or [word])[0]) for word in words]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"two classes of {root} are called {twice!r}; give each its own name")
    files = sorted(
        path
        for path in images.iterdir()
        if path.suffix.lower() in PICTURE_SUFFIXES and not path.name.startswith(".")
    )
    if not files:
        raise DataError(f"no images: {images} has none of {', '.join(sorted(PICTURE_SUFFIXES))}")
    stems = [path.stem for path in files]
    if len(set(stems)) != len(stems):
        twice = next(stem for stem in stems if stems.count(stem) > 1)
        raise DataError(f"two images in {images} are called {twice}; give each its own name")
    table = f"identity-{len(words)}" if len(words) <= 255 else "wide"
    items = [Item(path.stem, path, ((masks / f"{path.stem}.png", table),)) for path in files]
    return SegmentationDataset("folder", split, items, len(words), words=words)


def _lines_of(root: Path) -> list[str]:
    """Classes of the file `words.txt` of a folder: line by line, as :mod:`ovsslib.text.cleaning` reads files."""
    file = root / "words.txt"
    if not paths.is_file(file):
        raise DataError(f"no words for {root}: give words=[...], or write one per line in {file}")
    try:
        lines, first = lines_of_file(file.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError:
        raise DataError(f"{file} is not UTF-8; save it as UTF-8") from None
    except WordsError as error:
        raise DataError(f"{file}: {error}") from None
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from None
    if first != 0:
        raise DataError(
            f"{file} counts its classes from {first}, and labels count from 0; write the name of label 0 in the first line, "
            "or leave the numbers out"
        )
    return lines


def _given_words(words: Any) -> list[str]:
    """Classes that a caller gave: a list of texts, one text as people write it, or a Vocabulary."""
    from ovsslib.text.vocabulary import Vocabulary

    try:
        if isinstance(words, (str, Mapping, set, frozenset)) or not isinstance(words, Iterable):
            words = Vocabulary.from_words(words)
        if isinstance(words, Vocabulary):
            return [", ".join(queries) for queries in words.synonyms]
        return [clean_word(word) for word in words]
    except WordsError as error:
        raise DataError(f"words={words!r}: {error}") from None


def _first_folder(root: Path, names: Sequence[str], split: str) -> Path:
    for name in names:
        folder = root / name
        if (folder / split).is_dir():
            return folder / split
        if folder.is_dir():
            _refuse_other_splits(folder, split)
            return folder
    raise DataError(f"{root} has no folder {' or '.join(names)}")


def _refuse_other_splits(folder: Path, split: str) -> None:
    """Raise DataError for a folder without files that has folders of other splits."""
    entries = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    if entries and all(path.is_dir() for path in entries):
        there = ", ".join(path.name for path in entries[:8])
        raise DataError(f"{folder} has no split {split!r}; there are {there}: choose one (--split)")
