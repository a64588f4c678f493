"""Masks for other tools: COCO's run-length encoding, and one transparent cut-out per word."""

import io
import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from PIL import Image

from ovsslib.errors import DataError, ImageError, require
from ovsslib.paths import write_file

if TYPE_CHECKING:
    from ovsslib.images.segmentation import Segmentation


def to_coco(
    segmentation: "Segmentation",
    image_id: int = 1,
    file_name: str = "",
    first_id: int = 1,
    components: bool = False,
) -> dict[str, list[dict[str, Any]]]:
    """The masks in COCO's annotation format (https://cocodataset.org/#format-data), ready for JSON.

    Args:
        segmentation: what a segmenter returned.
        image_id, file_name: the picture's id and file name in the annotations.
        first_id: id of the first annotation; they count up from there. Ids start at 1: COCO's own
            evaluation takes 0 for "no match".
        components: one annotation per connected piece (8 neighbours) instead of one per word.

    Returns:
        {"images", "categories", "annotations"}. Category ids are label + 1. Words without a pixel
        are categories without an annotation. An annotation has id, image_id, category_id,
        segmentation (compressed run lengths, {"size": [H, W], "counts": str}), area (pixels), bbox
        ([x, y, width, height]) and iscrowd 0.
    """
    height, width = segmentation.mask.shape
    annotations: list[dict[str, Any]] = []
    for label, mask in pieces(segmentation, components):
        annotations.append(
            {
                "id": first_id + len(annotations),
                "image_id": image_id,
                "category_id": label + 1,
                "segmentation": run_lengths(mask),
                "area": int(mask.sum()),
                "bbox": _box(mask),
                "iscrowd": 0,
            }
        )
    return {
        "images": [{"id": image_id, "file_name": file_name, "height": height, "width": width}],
        "categories": [
            {"id": label + 1, "name": name} for label, name in enumerate(segmentation.names)
        ],
        "annotations": annotations,
    }


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """A mask (H, W) bool as COCO's compressed run lengths: {"size": [H, W], "counts": str}."""
    coco_masks = require("pycocotools.mask", "data", "COCO's run-length encoding")

    encoded = coco_masks.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode()}


def cutouts(segmentation: "Segmentation", folder: str | os.PathLike[str]) -> dict[str, Path]:
    """One RGBA PNG per word with pixels, of the picture's size, transparent elsewhere.

    As layers of an image editor they cover one another nowhere and give back the whole picture.
    Files are named by label and word ("03_brick-wall.png"); the folder is made if it is missing,
    files of these names are replaced, others are left alone.

    Returns the path per word. Raises ImageError if the segmentation kept no picture, DataError if
    the folder cannot be written.
    """
    if segmentation.image is None:
        raise ImageError(
            "this segmentation kept no picture to cut out of; make it with a segmenter, or give "
            "it image=..."
        )
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"cannot make the folder {folder}: {error.strerror}; give another"
        ) from error
    digits = max(2, len(str(len(segmentation.names) - 1)))
    paths = {}
    for label, mask in pieces(segmentation, components=False):
        name = segmentation.names[label]
        layer = np.dstack([segmentation.image * mask[..., None], np.uint8(255) * mask])
        path = folder / f"{label:0{digits}}_{_file_word(name)}.png"
        paths[name] = write_png(Image.fromarray(layer), path)
    return paths


def write_png(picture: Image.Image, path: str | os.PathLike[str]) -> Path:
    """Writes a PNG in one step: a file of that name is whole at any time. Raises DataError."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return write_file(path, buffer.getvalue())


def pieces(segmentation: "Segmentation", components: bool) -> Iterator[tuple[int, np.ndarray]]:
    """(label, (H, W) bool) of every word with pixels, or of every connected piece, by label."""
    for label in np.flatnonzero(segmentation.pixels).tolist():
        mask = segmentation.mask == label
        if not components:
            yield label, mask
            continue
        count, pieces = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
        for piece in range(1, count):
            yield label, pieces == piece


def _box(mask: np.ndarray) -> list[int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    x, y = int(columns[0]), int(rows[0])
    return [x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1]


def _file_word(word: str) -> str:
    """A word as part of a file name: letters and digits of any script, the rest as dashes."""
    plain = unicodedata.normalize("NFC", word).lower()
    return re.sub(r"[\W_]+", "-", plain).strip("-")[:60] or "word"
