"""Converting label files as they are released into the form of the mmsegmentation layout.

- coco_stuff: `annotations/val2017/{id}.png` (stuffthingmaps) -> `{id}_labelTrainIds.png`.
- coco_object: the same files -> `{id}_instanceTrainIds.png`.
- cityscapes: `gtFine/val/{city}/{x}_gtFine_labelIds.png` -> `{x}_gtFine_labelTrainIds.png`.
- context59, context60: `SegmentationClassContext/{id}.png` and the list of images, from the Detail
  API's `trainval_merged.json` (as mmsegmentation does; 5,104 validation images) or from the folder
  of 459-class `.mat` files of the first release (those of its images that are in PASCAL VOC 2010's
  own validation list).

Every file is written under another name and then renamed, so a file that is there is whole: a run
that was interrupted goes on where it stopped.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.io import loadmat
from tqdm import tqdm

from ovsslib import paths
from ovsslib.datasets import label_tables as labels
from ovsslib.datasets.dataset import read_mask
from ovsslib.errors import DataError, OvssError, require

PREPARABLE = ("coco_stuff", "coco_object", "cityscapes", "context59", "context60")

_COCO_PARTS = {"train": "train2017", "val": "val2017"}
_CONVERTED = ("_labelTrainIds", "_instanceTrainIds")


@dataclass
class Prepared:
    """What a conversion did: files written, files that were there already, and one line per
    problem."""

    written: int = 0
    kept: int = 0
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.written} label files written, {self.kept} were there already, "
            f"{len(self.problems)} problems"
        )


@dataclass(frozen=True)
class _LabelFile:
    """One label file to make: where it goes, and how its (H, W) uint8 labels are computed."""

    target: Path
    compute: Callable[[], np.ndarray]


def prepare_dataset(
    name: str,
    root: str | os.PathLike,
    split: str = "val",
    source: str | os.PathLike | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Prepared:
    """Convert the label files of one split of a data set under `root` (its own folder or the one
    above).

    `source` is needed by Context alone: `trainval_merged.json` or the folder of `.mat` files; by
    default either is looked for in the data set's folder. Label files that exist are kept unless
    `overwrite`.

    A source file that cannot be converted becomes a line of `Prepared.problems` and the run goes
    on. Raises DataError for an unknown data set or split, missing folders, or when writing fails
    (disk full).
    """
    if split not in ("train", "val"):
        raise DataError(f"unknown split {split!r}; label files are prepared for train or val")
    if source is not None and not name.startswith("context"):
        raise DataError(f"source={str(source)!r}: only PASCAL Context has one; leave it out")
    root = Path(root).expanduser()
    jobs: Iterable[_LabelFile]
    finish: Callable[[], None] | None = None
    if name in ("coco_stuff", "coco_object"):
        jobs = _coco_jobs(name, Path(root), split)
    elif name == "cityscapes":
        jobs = _cityscapes_jobs(Path(root), split)
    elif name in ("context59", "context60"):
        jobs, finish = _context_jobs(Path(root), split, source)
    else:
        raise DataError(f"nothing to prepare for {name!r}; there are {', '.join(PREPARABLE)}")
    result = _run(jobs, overwrite, progress, name)
    if finish is not None:
        finish()
    return result


def _run(jobs: Iterable[_LabelFile], overwrite: bool, progress: bool, name: str) -> Prepared:
    result = Prepared()
    for job in tqdm(list(jobs), desc=f"prepare {name}", disable=not progress):
        if job.target.is_file() and not overwrite:
            result.kept += 1
            continue
        try:
            values = job.compute()
        except OvssError as error:
            result.problems.append(" ".join(str(error).split()))
            continue
        save_mask(job.target, values)
        result.written += 1
    return result


def save_mask(path: Path, values: np.ndarray) -> None:
    """Write (H, W) uint8 labels as a grey PNG, all or nothing. Raises DataError when that fails."""
    _write(path, lambda part: Image.fromarray(values).save(part, format="PNG"))


def _write(path: Path, save: Callable[[Path], object]) -> None:
    remedy = (
        "make room or choose another folder, then run the same command again: it goes on from here"
    )
    with paths.replacing(path, make_folder=True, sync=False, remedy=remedy) as part:
        save(part)


def _base(root: Path, usual: Iterable[str], subfolder: str, title: str) -> Path:
    """The folder that has `subfolder`: root or one of the usual folders in it."""
    root = root.expanduser()
    for candidate in [root, *(root / part for part in usual)]:
        if (candidate / subfolder).is_dir():
            return candidate
    raise DataError(
        f"{title} is not in {root}: there is no folder {subfolder} in it; check the root"
    )


def _coco_jobs(name: str, root: Path, split: str) -> Iterator[_LabelFile]:
    folder = f"annotations/{_COCO_PARTS[split]}"
    usual = ("coco_object", "coco_stuff164k", "coco")
    base = _base(root, usual if name == "coco_object" else usual[1:2], folder, name)
    if name == "coco_stuff":
        suffix, table = "_labelTrainIds", labels.coco_stuff_raw()
    else:
        suffix, table = "_instanceTrainIds", labels.coco_object_raw()
    sources = [
        path for path in sorted((base / folder).glob("*.png")) if not path.stem.endswith(_CONVERTED)
    ]
    if not sources:
        raise DataError(f"no raw label maps (*.png of stuffthingmaps) in {base / folder}")
    for path in sources:
        yield _LabelFile(path.with_name(f"{path.stem}{suffix}.png"), _by_table(path, table))


def _cityscapes_jobs(root: Path, split: str) -> Iterator[_LabelFile]:
    base = _base(root, ("cityscapes",), f"gtFine/{split}", "cityscapes")
    sources = sorted((base / "gtFine" / split).glob("*/*_gtFine_labelIds.png"))
    if not sources:
        raise DataError(f"no *_gtFine_labelIds.png in the city folders of {base}/gtFine/{split}")
    for path in sources:
        target = path.with_name(path.name.replace("_labelIds.png", "_labelTrainIds.png"))
        yield _LabelFile(target, _by_table(path, labels.cityscapes_raw()))


def _by_table(path: Path, table: np.ndarray) -> Callable[[], np.ndarray]:
    return lambda: labels.relabel(read_mask(path), table, str(path))


def _context_jobs(
    root: Path, split: str, source: str | os.PathLike | None
) -> tuple[list[_LabelFile], Callable[[], None]]:
    """Jobs of PASCAL Context, and the writing of its list once they are done."""
    base = _base(root, ("VOCdevkit/VOC2010", "VOC2010"), "JPEGImages", "PASCAL VOC 2010")
    source = _context_source(base, source)
    if source.is_dir():
        compute = _context_from_mat(base, source, split)
    else:
        compute = _context_from_detail(source, split)
    if not compute:
        raise DataError(f"{source} has no images of the split {split}")
    masks = base / "SegmentationClassContext"
    jobs = [
        _LabelFile(masks / f"{name}.png", function) for name, function in sorted(compute.items())
    ]

    def write_list() -> None:
        names = [name for name in sorted(compute) if (masks / f"{name}.png").is_file()]
        text = "".join(f"{name}\n" for name in names)
        path = base / "ImageSets" / "SegmentationContext" / f"{split}.txt"
        _write(path, lambda part: part.write_text(text, encoding="utf-8"))

    return jobs, write_list


def _context_source(base: Path, source: str | os.PathLike | None) -> Path:
    if source is not None:
        source = Path(source).expanduser()
        if not source.exists():
            raise DataError(f"{source} does not exist; give trainval_merged.json or a .mat folder")
        return source
    for candidate in (base / "trainval_merged.json", base / "trainval"):
        if candidate.exists():
            return candidate
    raise DataError(
        f"PASCAL Context's labels are not in {base}: fetch trainval_merged.json (Detail API) or "
        "the folder trainval of .mat files, and put it there or name it as source"
    )


def _context_from_mat(base: Path, folder: Path, split: str) -> dict[str, Callable]:
    file = base / "ImageSets" / "Main" / f"{split}.txt"
    try:
        names = {line.split()[0] for line in file.read_text().splitlines() if line.strip()}
    except OSError as error:
        raise DataError(f"the list of the split {file} cannot be read: {error}") from error

    def read(path: Path) -> np.ndarray:
        try:
            stored = np.asarray(loadmat(path)["LabelMap"])
        except Exception as error:
            # scipy raises many kinds of error on damaged files.
            raise DataError(f"{path} is no label map of PASCAL Context: {error!r}") from error
        return labels.context_ranks(stored.astype(np.int64), str(path))

    files = {path.stem: path for path in sorted(folder.glob("*.mat")) if path.stem in names}
    return {name: lambda path=path: read(path) for name, path in files.items()}


def _context_from_detail(file: Path, split: str) -> dict[str, Callable]:
    """Label maps by painting the category of every annotation, in the order of the file."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        images = {
            image["image_id"]: image for image in content["images"] if image["phase"] == split
        }
        regions: dict[int, list[dict]] = {image_id: [] for image_id in images}
        for region in content["annos_segmentation"]:
            if region["image_id"] in regions:
                regions[region["image_id"]].append(region)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{file} is not the Detail API's trainval_merged.json: {error!r}"
        ) from error

    def paint(image: dict) -> np.ndarray:
        where = f"{file}, image {image['file_name']}"
        stored = np.zeros((image["height"], image["width"]), dtype=np.int64)
        for region in regions[image["image_id"]]:
            try:
                stored[_decode(region["segmentation"])] = region["category_id"]
            except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
                raise DataError(f"{where} has a region that cannot be read: {error!r}") from error
        return labels.context_ranks(stored, where)

    return {
        Path(image["file_name"]).stem: lambda image=image: paint(image) for image in images.values()
    }


def _decode(region: dict) -> np.ndarray:
    """COCO run-length code -> (H, W) bool."""
    counts = region["counts"]
    if isinstance(counts, list):
        region = _run_length().frPyObjects(region, *region["size"])
    elif isinstance(counts, str):
        region = {"size": region["size"], "counts": counts.encode("ascii")}
    return _run_length().decode(region).astype(bool)


def _run_length() -> Any:
    return require("pycocotools.mask", "data", "converting COCO's label maps")
