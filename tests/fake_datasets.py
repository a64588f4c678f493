"""Tiny data sets in the real folder layouts, with known labels, for tests of everything that reads
them.

`build("voc21", root)` writes a few images and label files under `root` and returns the labels a
correct loader must give. Stored values are made here on their own, not with the tables under test.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

SIZES = ((24, 32), (30, 22), (16, 40))
KINDS = (
    "voc21",
    "voc20",
    "context60",
    "context59",
    "coco_stuff",
    "coco_stuff10k",
    "coco_object",
    "cityscapes",
    "ade20k",
    "scenes",
    "scenes-object",
    "scenes-things",
    "folder",
)
CLASSES = dict(zip(KINDS, (21, 20, 60, 59, 171, 171, 81, 19, 150, 34, 21, 20, 4), strict=True))
WORDS = ("person, human", "dog", "grass", "sky")


@dataclass(frozen=True)
class Fake:
    """What was written: `root` is the data set's own folder; `labels` (H, W) uint8 by image
    name."""

    kind: str
    root: Path
    names: tuple[str, ...]
    labels: dict[str, np.ndarray]
    images: dict[str, Path]
    masks: dict[str, Path]


def picture(size: tuple[int, int], seed: int) -> Image.Image:
    """A smooth random picture of (height, width)."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size[::-1], Image.Resampling.BILINEAR)


def label_map(size: tuple[int, int], classes: int, seed: int, ignored: bool) -> np.ndarray:
    """Blocks of random labels 0..classes-1, the last class among them, and 255 where `ignored`."""
    random = np.random.default_rng(seed)
    blocks = random.integers(0, classes, (size[0] // 4 + 1, size[1] // 4 + 1))
    blocks[0, 0], blocks[0, 1] = 0, classes - 1
    if ignored:
        blocks[1, 0] = 255
    return np.kron(blocks, np.ones((4, 4), int))[: size[0], : size[1]].astype(np.uint8)


def stored_values(kind: str, labels: np.ndarray, raw: bool = False, seed: int = 0) -> np.ndarray:
    """The values that the official files hold for these labels, (H, W) uint8."""
    labels = labels.astype(int)
    reduced = np.where(labels == 255, 0, labels + 1)
    if kind in ("voc20", "context59", "ade20k", "coco_stuff10k"):
        result = reduced
    elif kind == "scenes-object":
        hidden = np.random.default_rng(seed).integers(0, 14, labels.shape)
        result = np.where(labels == 0, hidden, labels + 13)
    elif kind == "scenes-things":
        hidden = np.random.default_rng(seed).integers(0, 14, labels.shape)
        result = np.where(labels == 255, hidden, labels + 14)
    elif raw and kind == "coco_stuff":
        result = _coco_raw(labels)
    elif raw and kind == "coco_object":
        hidden = np.random.default_rng(seed).choice([91, 150, 181, 255], labels.shape)
        result = np.where(labels == 0, hidden, _coco_raw(labels - 1))
    elif raw and kind == "cityscapes":
        ids = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
        hidden = np.random.default_rng(seed).choice([0, 4, 9, 16, 30], labels.shape)
        result = np.where(labels == 255, hidden, np.take(ids, labels, mode="clip"))
    else:
        result = labels
    return result.astype(np.uint8)


def _coco_raw(train: np.ndarray) -> np.ndarray:
    missing = {11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90}
    existing = [value for value in range(182) if value not in missing]
    return np.where(train == 255, 255, np.take(existing, train, mode="clip"))


def build(
    kind: str, root: Path, images: int = 3, raw: bool = False, seed: int = 0, home: bool = True
) -> Fake:
    """Write a data set of `kind` with random pictures; the parameters are those of `write`."""
    nothing_ignored = kind in ("coco_object", "scenes", "scenes-object", "context60")
    pairs = []
    for index in range(images):
        size = SIZES[index % len(SIZES)]
        label = label_map(size, CLASSES[kind], seed + index, not nothing_ignored)
        pairs.append((picture(size, seed + index), label))
    return write(kind, root, pairs, raw, seed, home)


def write(
    kind: str,
    root: Path,
    pairs: Sequence[tuple[Image.Image, np.ndarray]],
    raw: bool = False,
    seed: int = 0,
    home: bool = True,
) -> Fake:
    """Write these pictures and labels (H, W) uint8 as a data set of `kind`.

    With `home` it lies in its usual subfolder of `root` (VOCdevkit/VOC2012, ...), else in `root`
    itself. `raw` writes the unconverted label files of COCO and Cityscapes.
    """
    folder, image_path, mask_path, list_file = _places(kind, raw)
    base = Path(root) / folder if home else Path(root)
    names = tuple(name_of(kind, index) for index in range(len(pairs)))
    labels, image_files, mask_files = {}, {}, {}
    for name, (image, label) in zip(names, pairs, strict=True):
        image_files[name] = base / image_path.format(name)
        mask_files[name] = base / mask_path.format(name)
        for path in (image_files[name], mask_files[name]):
            path.parent.mkdir(parents=True, exist_ok=True)
        image.save(image_files[name], **_quality(image_files[name]))
        write_mask(mask_files[name], stored_values(kind, label, raw, seed), kind.startswith("voc"))
        labels[name] = label
    if list_file:
        (base / list_file).parent.mkdir(parents=True, exist_ok=True)
        (base / list_file).write_text("".join(f"{name}\n" for name in names))
    if kind == "folder":
        (base / "words.txt").write_text("\n".join(WORDS) + "\n")
    return Fake(kind, base, names, labels, image_files, mask_files)


def write_mask(path: Path, values: np.ndarray, palette: bool = False) -> None:
    """Save an index PNG, with a colour palette if asked, as PASCAL VOC's are."""
    image = Image.fromarray(values)
    if palette:
        image = image.convert("L")
        image.putpalette([(37 * entry) % 256 for entry in range(768)])
    image.save(path)


def _quality(path: Path) -> dict:
    return {"quality": 92} if path.suffix == ".jpg" else {}


def name_of(kind: str, index: int) -> str:
    if kind == "cityscapes":
        city = ("frankfurt", "lindau", "munster")[index % 3]
        return f"{city}/{city}_{index:06d}_000019"
    if kind in ("voc21", "voc20", "context60", "context59"):
        return f"2007_{index:06d}"
    return f"{index:012d}"


def _places(kind: str, raw: bool) -> tuple[str, str, str, str | None]:
    """Usual folder, image path, label path, list file."""
    if kind in ("voc21", "voc20"):
        masks, lists = "SegmentationClass/{}.png", "ImageSets/Segmentation/val.txt"
        return "VOCdevkit/VOC2012", "JPEGImages/{}.jpg", masks, lists
    if kind in ("context60", "context59"):
        masks, lists = "SegmentationClassContext/{}.png", "ImageSets/SegmentationContext/val.txt"
        return "VOCdevkit/VOC2010", "JPEGImages/{}.jpg", masks, lists
    if kind in ("coco_stuff", "coco_object"):
        suffix = {"coco_stuff": "_labelTrainIds", "coco_object": "_instanceTrainIds"}[kind]
        masks = "annotations/val2017/{}" + ("" if raw else suffix) + ".png"
        home = {"coco_stuff": "coco_stuff164k", "coco_object": "coco_object"}[kind]
        return home, "images/val2017/{}.jpg", masks, None
    if kind == "coco_stuff10k":
        masks = "annotations/test2014/{}_labelTrainIds.png"
        return "coco_stuff10k", "images/test2014/{}.jpg", masks, None
    if kind == "cityscapes":
        form = "labelIds" if raw else "labelTrainIds"
        masks = "gtFine/val/{}_gtFine_" + form + ".png"
        return "cityscapes", "leftImg8bit/val/{}_leftImg8bit.png", masks, None
    if kind == "ade20k":
        masks = "annotations/validation/{}.png"
        return "ADEChallengeData2016", "images/validation/{}.jpg", masks, None
    if kind == "folder":
        return "folder", "images/{}.jpg", "annotations/{}.png", None
    return "scenes", "images/val/{}.jpg", "annotations/val/{}.png", None
