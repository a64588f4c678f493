"""Masks for labelling tools and other libraries: Label Studio, polygons, `supervision`, FiftyOne."""

import importlib
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from ovsslib.errors import ImageError, MissingPackageError
from ovsslib.images.export import pieces

if TYPE_CHECKING:
    from ovsslib.images.segmentation import Segmentation

RUN_BITS = (3, 4, 8, 16)
"""Lengths in bits that a run's count may have in Label Studio's brush format."""


def brush_runs(mask: np.ndarray) -> list[int]:
    """A mask (H, W) bool in Label Studio's brush format: bytes as a list of numbers 0 to 255.

    The format packs an RGBA picture, row by row, four equal values per pixel (255 in the mask, 0 outside), as a stream
    of bits, highest first: 32 bits number of values; 5 bits word length less 1; four times 4 bits, the lengths in
    RUN_BITS less 1; then runs until all values are told: 1 bit (1: one value repeated), 2 bits which of the lengths,
    so many bits the count less 1, and the value. It is that of the JavaScript package `@thi.ng/rle-pack`, which Label
    Studio uses (https://labelstud.io, "Import brush segmentation labels").
    """
    flat = np.ascontiguousarray(mask, dtype=bool).ravel()
    bits = [f"{4 * flat.size:032b}", f"{8 - 1:05b}", *(f"{n - 1:04b}" for n in RUN_BITS)]
    edges = np.flatnonzero(np.diff(flat)) + 1
    starts = np.concatenate([[0], edges]) if flat.size else np.zeros(0, dtype=int)
    lengths = np.diff(np.concatenate([starts, [flat.size]])) if flat.size else starts
    longest = 2 ** RUN_BITS[-1]
    for start, length in zip(starts.tolist(), (4 * lengths).tolist(), strict=True):
        value = "11111111" if flat[start] else "00000000"
        while length:
            count = min(length, longest)
            which = next(i for i, n in enumerate(RUN_BITS) if count <= 2**n)
            bits.append(f"1{which:02b}{count - 1:0{RUN_BITS[which]}b}{value}")
            length -= count
    stream = "".join(bits)
    stream += "0" * (-len(stream) % 8)
    return [int(stream[at : at + 8], 2) for at in range(0, len(stream), 8)]


def to_label_studio(
    segmentation: "Segmentation",
    image: str,
    from_name: str = "tag",
    to_name: str = "image",
    components: bool = False,
) -> dict[str, Any]:
    """A Label Studio task with brush masks as pre-annotations (`predictions`), ready for JSON.

    Args:
        image: address of the picture as Label Studio can open it ("/data/local-files/?d=...", or a URL).
        from_name, to_name: names of the <BrushLabels> and <Image> tags of the project's labelling configuration.
        components: one region per connected piece instead of one per word.

    The class "background" gets no region. Write a list of such tasks to a JSON file and import it.
    """
    height, width = segmentation.mask.shape
    regions: list[dict[str, Any]] = []
    for label, mask in pieces(segmentation, components):
        name = segmentation.names[label]
        if name == "background":
            continue
        regions.append(
            {
                "id": f"region-{len(regions) + 1}",
                "type": "brushlabels",
                "from_name": from_name,
                "to_name": to_name,
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                "value": {"format": "rle", "rle": brush_runs(mask), "brushlabels": [name]},
            }
        )
    version = " ".join(part for part in (segmentation.model, segmentation.recipe) if part)
    return {
        "data": {to_name: image},
        "predictions": [{"model_version": version or "ovsslib", "result": regions}],
    }


def polygons(segmentation: "Segmentation", tolerance: float = 0.0) -> list[dict[str, Any]]:
    """Outlines of every connected piece: {"label", "name", "outline", "holes"}, ready for JSON.

    outline: [[x, y], ...] through the centres of the piece's outermost pixels; holes: such rings through the pixels
    around each hole. `tolerance`: largest distance in pixels by which a ring may be simplified (Douglas, Peucker).
    """
    if not 0 <= tolerance < math.inf:
        raise ImageError(f"tolerance={tolerance}: give a number of pixels of at least 0")
    polygons_of_pieces = []
    for label, mask in pieces(segmentation, components=True):
        rings, tree = cv2.findContours(
            mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE
        )
        shaped = [_ring(ring, tolerance) for ring in rings]
        outer = [i for i in range(len(rings)) if tree[0, i, 3] < 0]
        holes = [shaped[i] for i in range(len(rings)) if tree[0, i, 3] >= 0]
        polygons_of_pieces.append(
            {
                "label": label,
                "name": segmentation.names[label],
                "outline": shaped[outer[0]],
                "holes": holes,
            }
        )
    return polygons_of_pieces


def _ring(ring: np.ndarray, tolerance: float) -> list[list[int]]:
    if tolerance > 0:
        ring = cv2.approxPolyDP(ring, tolerance, closed=True)
    return ring[:, 0].tolist()


def to_supervision(segmentation: "Segmentation", components: bool = True) -> Any:
    """`supervision.Detections` of all words but the background: xyxy, mask, class_id, confidence, class_name.

    Confidence is the mean score of the region's pixels, if the segmentation knows scores. Raises MissingPackageError.
    """
    supervision = _optional("supervision")
    regions = list(_foreground(segmentation, components))
    height, width = segmentation.mask.shape
    masks = np.array([mask for _, mask in regions], dtype=bool).reshape(-1, height, width)
    sure = None
    if segmentation.confidence is not None:
        means = [float(segmentation.confidence[mask].mean()) for _, mask in regions]
        sure = np.array(means, dtype=np.float32)
    return supervision.Detections(
        xyxy=np.array([_corners(mask) for mask in masks], dtype=np.float32).reshape(-1, 4),
        mask=masks,
        class_id=np.array([label for label, _ in regions], dtype=int),
        confidence=sure,
        data={"class_name": np.array([segmentation.names[label] for label, _ in regions])},
    )


def to_fiftyone(
    segmentation: "Segmentation", path: str | os.PathLike[str], field: str = "words"
) -> Any:
    """A `fiftyone.Sample` of the picture at `path` with the mask as a `Segmentation` in `field`.

    Give the dataset `mask_targets[field] = dict(enumerate(segmentation.names))`, so that labels have names there.
    Raises MissingPackageError.
    """
    fiftyone = _optional("fiftyone")
    kind = np.uint8 if len(segmentation.names) <= 256 else np.uint16
    sample = fiftyone.Sample(filepath=str(Path(path).absolute()))
    sample[field] = fiftyone.Segmentation(mask=segmentation.mask.astype(kind))
    return sample


def _optional(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise MissingPackageError(
            f"this export needs the package {name!r}: pip install {name}"
        ) from None


def _foreground(segmentation: "Segmentation", components: bool) -> Iterable[tuple[int, np.ndarray]]:
    for label, mask in pieces(segmentation, components):
        if segmentation.names[label] != "background":
            yield label, mask


def _corners(mask: np.ndarray) -> list[int]:
    """[x0, y0, x1, y1], the last ones exclusive."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]
