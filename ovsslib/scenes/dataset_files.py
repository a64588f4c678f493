"""Splits of Scenes on disk, in mmsegmentation's layout, and the manifest that lets them be remade.

images/<split>/000000.jpg        quality 95
annotations/<split>/000000.png   grey values are indices into CLASSES
instances/<split>/000000.png     16 bits, 0 where only stuff is
parts/<split>/000000.png         indices into PARTS
captions/<split>.jsonl           captions, things and layout of each picture
manifests/<split>.json           seed, picture indices, hashes of the arrays before compression
"""

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import PIL
from PIL import Image

from ovsslib import paths
from ovsslib.errors import DataError
from ovsslib.scenes.captions import caption
from ovsslib.scenes.classes import CLASSES
from ovsslib.scenes.drawing import PINNED, Scene, draw

#: The world (seed) of each split; textures are drawn from the seed, so no two splits share one.
SPLIT_SEEDS = {"train": 1, "dev": 2, "val": 3, "test": 4}

#: The fewest pictures that show a class, in validation and test alike.
MINIMUM_PICTURES = 25
SPLIT_SIZE = 400

_CAPTIONS_PER_PICTURE = 3
_CAPTION_STREAM = 0xCA97
_SEEN_PIXELS = 64
_MEAN_TOLERANCE = 0.5
_GIVE_UP_AFTER = 50


@dataclass(frozen=True)
class SplitReport:
    """What a written split holds: its folder, the number of pictures, how many pictures show each
    class, and how many pictures have other bytes than the manifest they were checked against
    (rounding of another machine; masks always agree)."""

    folder: Path
    count: int
    pictures_with: dict[str, int]
    rounded_differently: int = 0


def _classes_seen(scene: Scene) -> np.ndarray:
    """Whether each class covers at least 64 pixels: (number of classes,) bool."""
    return np.bincount(scene.labels.ravel(), minlength=len(CLASSES)) >= _SEEN_PIXELS


def balanced_indices(seed: int, count: int, minimum: int) -> list[int]:
    """The first picture indices of world `seed` such that `count` pictures show every class in at
    least `minimum` pictures (64 pixels or more of it).

    As long as a class is short of pictures, only pictures that show such a class are taken.
    Raises DataError if `count` pictures cannot be enough.
    """
    if minimum == 0:
        return list(range(count))
    counts = np.zeros(len(CLASSES), int)
    indices: list[int] = []
    for index in range(_GIVE_UP_AFTER * count):
        if len(indices) == count:
            break
        classes = _classes_seen(draw(seed, index))
        short = counts < minimum
        if not short.any() or (classes & short).any():
            indices.append(index)
            counts += classes
    if len(indices) < count or counts.min() < minimum:
        name = CLASSES[int(counts.argmin())]
        raise DataError(
            f"{count} pictures of seed {seed} show {name!r} only {counts.min()} times, "
            f"not {minimum}; ask for more pictures or a smaller minimum"
        )
    return indices


def _encode(array: np.ndarray, form: str) -> bytes:
    buffer = io.BytesIO()
    options = {"quality": 95} if form == "JPEG" else {"optimize": True}
    Image.fromarray(array).save(buffer, form, **options)
    return buffer.getvalue()


def _fingerprint(scene: Scene) -> dict:
    """Hashes of the picture and of its masks before compression, and the mean grey level."""
    masks = hashlib.sha256()
    for mask in (scene.labels, scene.instances, scene.parts):
        masks.update(np.ascontiguousarray(mask).tobytes())
    return {
        "image": hashlib.sha256(scene.image.tobytes()).hexdigest(),
        "masks": masks.hexdigest(),
        "mean": round(float(scene.image.mean()), 3),
    }


def _describe(seed: int, index: int, file: str, scene: Scene) -> str:
    """One line of captions/<split>.jsonl."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, index, _CAPTION_STREAM]))
    texts = [
        caption(rng, scene.labels, scene.instances, scene.objects)
        for _ in range(_CAPTIONS_PER_PICTURE)
    ]
    record = {
        "file": file,
        "index": index,
        "captions": texts,
        "objects": [asdict(thing) for thing in scene.objects],
        "layout": asdict(scene.layout),
    }
    return json.dumps(record) + "\n"


def _write_picture(folder: Path, split: str, file: str, scene: Scene) -> None:
    files = (
        ("images", ".jpg", scene.image, "JPEG"),
        ("annotations", ".png", scene.labels, "PNG"),
        ("instances", ".png", scene.instances, "PNG"),
        ("parts", ".png", scene.parts, "PNG"),
    )
    for kind, ending, array, form in files:
        path = folder / kind / split / (file + ending)
        if not path.exists():
            with paths.replacing(path, make_folder=True, sync=False) as part:
                part.write_bytes(_encode(array, form))


def _check_same_split(path: Path, seed: int, indices: list[int]) -> None:
    """Refuse to mix two splits in one folder."""
    if not path.exists():
        return
    manifest = read_manifest(path)
    if manifest["seed"] != seed or [p["index"] for p in manifest["pictures"]] != indices:
        raise DataError(
            f"{path} belongs to another split (seed {manifest['seed']}, "
            f"{len(manifest['pictures'])} pictures); choose another folder or remove it"
        )


def read_manifest(path: Path) -> dict:
    """A manifest as written by write_split. Raises DataError if it is missing or damaged."""
    try:
        manifest = json.loads(path.read_text())
        manifest["seed"], manifest["pictures"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"the manifest {path} cannot be read ({error}); make the split anew"
        ) from error
    return manifest


def write_split(
    folder: str | os.PathLike,
    count: int,
    seed: int,
    split: str = "val",
    minimum: int = 0,
    indices: Iterable[int] | None = None,
    expected: dict | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SplitReport:
    """Draw a split and write it below `folder` in the layout of this module's docstring.

    count: number of pictures; seed: the world; split: name of the sub-folders; minimum: every class
    is shown by at least so many pictures (0: pictures 0..count-1 as they come); indices: these
    pictures instead; expected: a manifest to check against; progress: called with (done, count).
    Files are written whole or not at all, and those already there are kept, so a stopped run goes
    on where it was. Raises DataError if the folder holds another split, or if a picture differs
    from the expected one by more than rounding.
    """
    if count < 1:
        raise DataError(f"a split of {count} pictures cannot be made; ask for 1 or more")
    if not split or split in (".", "..") or Path(split).name != split:
        raise DataError(f"split={split!r} is no name of a folder; give one such as val or train")
    folder = Path(folder)
    chosen = list(indices) if indices is not None else balanced_indices(seed, count, minimum)
    manifest_path = folder / "manifests" / f"{split}.json"
    _check_same_split(manifest_path, seed, chosen)
    shown = np.zeros(len(CLASSES), int)
    pictures, lines, rounded = [], [], 0
    for number, index in enumerate(chosen):
        file = f"{number:06d}"
        scene = draw(seed, index)
        entry = {"file": file, "index": index, **_fingerprint(scene)}
        if expected is not None:
            rounded += _differs(entry, expected["pictures"][number])
        _write_picture(folder, split, file, scene)
        shown += _classes_seen(scene)
        pictures.append(entry)
        lines.append(_describe(seed, index, file, scene))
        if progress is not None:
            progress(number + 1, len(chosen))
    paths.write_file(
        folder / "captions" / f"{split}.jsonl", "".join(lines).encode(), make_folder=True
    )
    manifest = {
        "seed": seed,
        "minimum": minimum,
        "classes": list(CLASSES),
        "drawn_with": drawn_with(),
        "pictures": pictures,
    }
    paths.write_file(
        manifest_path, (json.dumps(manifest, indent=0) + "\n").encode(), make_folder=True
    )
    counts = {name: int(n) for name, n in zip(CLASSES, shown, strict=True)}
    return SplitReport(folder, len(chosen), counts, rounded)


def drawn_with() -> dict[str, str]:
    """Versions of the packages that pictures are being drawn with."""
    return {"numpy": np.__version__, "pillow": PIL.__version__, "opencv": cv2.__version__}


def _differs(entry: dict, expected: dict) -> bool:
    """False if a picture is the expected one byte for byte, True if it is up to rounding."""
    if entry["image"] == expected["image"] and entry["masks"] == expected["masks"]:
        return False
    if (
        entry["masks"] != expected["masks"]
        or abs(entry["mean"] - expected["mean"]) > _MEAN_TOLERANCE
    ):
        raise DataError(
            f"picture {entry['file']} (index {entry['index']}) is not the one in the manifest: "
            f"mean {entry['mean']} against {expected['mean']}, masks "
            f"{'differ' if entry['masks'] != expected['masks'] else 'agree'}; "
            f"install {PINNED} (drawn here with {drawn_with()})"
        )
    return True


def make_test_split(
    folder: str | os.PathLike, progress: Callable[[int, int], None] | None = None
) -> SplitReport:
    """Draw the test split below `folder` and check it against the shipped manifest.

    Only the manifest is shipped (data/scenes/manifests/test.json); the test split is never used to
    choose a setting. Raises DataError if a picture differs by more than rounding.
    """
    manifest = read_manifest(paths.data("scenes/manifests/test.json"))
    indices = [picture["index"] for picture in manifest["pictures"]]
    return write_split(
        folder,
        len(indices),
        manifest["seed"],
        "test",
        manifest["minimum"],
        indices,
        manifest,
        progress,
    )
