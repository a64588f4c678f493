"""Mask proposers: a picture -> masks of what may be its parts, without a word about what they show.

`felzenszwalb` and `slic` (scikit-image) cut the picture into regions by colour and need no weights; `sam`, `sam2` and
`sam3` are trained segmenters asked at a grid of points (:mod:`ovsslib.guides.everything`).
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast
from zipfile import BadZipFile

import cv2
import numpy as np

from ovsslib import paths
from ovsslib.errors import ImageError, MemoryBudgetError, RecipeError, require

_MOST_BYTES = 4 << 30
_KEPT_IN_MEMORY = 64 << 20

# Settings of every proposer, with their defaults; all of them decide the result. `longest`: larger pictures are made
# smaller, to this longest side in pixels, before they are cut; masks grow back with hard edges.
_DEFAULTS: dict[str, dict[str, Any]] = {
    # Felzenszwalb and Huttenlocher, "Efficient Graph-Based Image Segmentation", IJCV 2004. scale: larger means larger
    # regions. sigma: blur in pixels. min_size: pixels of the smallest region.
    "felzenszwalb": {"scale": 100.0, "sigma": 0.8, "min_size": 50, "longest": 1024},
    # Achanta et al., "SLIC Superpixels", TPAMI 2012. segments: about how many regions. compactness: closeness against
    # likeness of colour. sigma: blur in pixels.
    "slic": {"segments": 150, "compactness": 10.0, "sigma": 1.0, "longest": 1024},
}
# Kirillov et al., "Segment Anything", ICCV 2023, section 5 and appendix B: a grid of points, three masks each, filtered by
# predicted IoU, by stability under a shift of the threshold by `stability_offset` logits, and by suppression of
# overlapping boxes.
_EVERYTHING = {
    "points_per_side": 32,
    "iou_threshold": 0.88,
    "stability_threshold": 0.95,
    "stability_offset": 1.0,
    "box_overlap": 0.7,
    "multimask": True,
    "longest": 1024,
}
for _name in ("sam", "sam2", "sam3"):
    _DEFAULTS[_name] = dict(_EVERYTHING)
#: Names that :func:`load` takes.
NAMES = tuple(_DEFAULTS)


class Method(Protocol):
    """How a proposer cuts: (h, w, 3) uint8 RGB -> a label map (h, w) of integers, every pixel in one region, or masks
    (M, h, w) of booleans, which may overlap and leave pixels out."""

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Cut one picture."""


@dataclass(frozen=True)
class _Cut:
    """What a proposer found, at the size it worked at: a label map, or packed masks."""

    labels: np.ndarray | None
    packed: np.ndarray | None
    shape: tuple[int, int, int]

    @property
    def size(self) -> int:
        """Bytes in memory."""
        return cast(np.ndarray, self.labels if self.packed is None else self.packed).nbytes

    def masks(self) -> np.ndarray:
        """(M, h, w) bool."""
        if self.packed is None:
            return (
                cast(np.ndarray, self.labels)[None]
                == np.arange(1, self.shape[0] + 1)[:, None, None]
            )
        pixels = self.shape[1] * self.shape[2]
        flat = np.unpackbits(self.packed, axis=1, count=pixels) if len(self.packed) else self.packed
        return flat.astype(bool).reshape(self.shape)


class MaskProposer:
    """Cuts pictures into masks, and remembers them. Make one with :func:`load`.

    Attributes: `name`; `settings`, a dict of everything that decides the result; `weights_hash`, 16 hex digits of a trained
    segmenter's weights, "" for the others; `partition`, whether every pixel is in exactly one mask.
    """

    def __init__(
        self,
        name: str,
        method: Method,
        settings: Mapping[str, Any],
        weights_hash: str = "",
        partition: bool = True,
        on_disk: bool = False,
    ) -> None:
        """on_disk: keep what was found in the cache folder too, for methods that take seconds a picture."""
        self.name, self.settings = name, dict(settings)
        self.weights_hash, self.partition = weights_hash, partition
        self._method, self._on_disk = method, on_disk
        self._memory: OrderedDict[str, _Cut] = OrderedDict()

    def __repr__(self) -> str:
        values = ", ".join(f"{key}={value}" for key, value in self.settings.items())
        return f"MaskProposer({self.name!r}, {values})"

    def propose(self, image: np.ndarray) -> np.ndarray:
        """Masks (M, H, W) bool of a picture (H, W, 3) uint8 RGB, by rising area. M is 0 if a trained segmenter finds nothing.

        Raises ImageError for another array, MemoryBudgetError if the masks would take more than 4 GiB: then ask
        :meth:`regions` for one map.
        """
        cut = self._cut(image)
        height, width = image.shape[:2]
        if cut.shape[0] * height * width > _MOST_BYTES:
            raise MemoryBudgetError(
                f"{cut.shape[0]} masks of {height}x{width} pixels take "
                f"{cut.shape[0] * height * width / 2**30:.1f} GiB; use regions(image), one map of them all, or a "
                "smaller picture"
            )
        masks = cut.masks()
        if cut.shape[1:] == (height, width):
            return masks
        rows, columns = _nearest(height, cut.shape[1]), _nearest(width, cut.shape[2])
        return masks[:, rows[:, None], columns]

    def regions(self, image: np.ndarray) -> np.ndarray:
        """One map (H, W) int32 of the masks of a picture (H, W, 3) uint8 RGB; see :func:`region_map`."""
        cut = self._cut(image)
        labels = region_map(cut.masks()) if cut.labels is None else cut.labels
        height, width = image.shape[:2]
        rows, columns = _nearest(height, cut.shape[1]), _nearest(width, cut.shape[2])
        return labels[rows[:, None], columns].astype(np.int32)

    def key(self) -> str:
        """Text that names method, settings and weights: equal keys give equal masks."""
        return json.dumps([self.name, self.settings, self.weights_hash], sort_keys=True)

    def _cut(self, image: np.ndarray) -> _Cut:
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise ImageError(
                f"a mask proposer takes (H, W, 3) uint8 RGB, not {image.shape} {image.dtype}; convert the picture first"
            )
        summed = hashlib.sha256(f"{self.key()} {image.shape}".encode())
        summed.update(np.ascontiguousarray(image).data)
        name = summed.hexdigest()
        if name in self._memory:
            self._memory.move_to_end(name)
            return self._memory[name]
        cut = self._stored(name) if self._on_disk else None
        if cut is None:
            cut = _tidy(self._method(_shrunk(image, self.settings["longest"])))
            if self._on_disk:
                self._store(name, cut)
        self._memory[name] = cut
        while (
            len(self._memory) > 1 and sum(c.size for c in self._memory.values()) > _KEPT_IN_MEMORY
        ):
            self._memory.popitem(last=False)
        return cut

    @staticmethod
    def _file(name: str) -> Path:
        return paths.cache("masks") / f"{name}.npz"

    def _stored(self, name: str) -> _Cut | None:
        try:
            with np.load(self._file(name)) as stored:
                count, height, width = (int(side) for side in stored["shape"])
                return _Cut(None, stored["packed"], (count, height, width))
        except (OSError, ValueError, KeyError, EOFError, BadZipFile):
            return None  # not there, or cut off: it is made anew

    def _store(self, name: str, cut: _Cut) -> None:
        content = io.BytesIO()
        np.savez_compressed(content, packed=cast(np.ndarray, cut.packed), shape=np.array(cut.shape))
        paths.write_file(self._file(name), content.getvalue())


def load(name: str = "felzenszwalb", **settings: Any) -> MaskProposer:
    """A mask proposer.

    Args:
        name: one of `NAMES`.
        settings: instead of the defaults (:func:`defaults`). For sam, sam2 and sam3 also `model` (hub name, fetched if it is
            not in the local cache, or folder; None: the usual one, from the local cache only) and `device`.

    Raises:
        RecipeError: unknown name or setting, value out of range.
        ModelError: weights missing, of another model, hub not reachable. MissingPackageError: no transformers.
    """
    usual = defaults(name)
    places = ("model", "device") if name not in ("felzenszwalb", "slic") else ()
    unknown = sorted(set(settings) - set(usual) - set(places))
    if unknown:
        raise RecipeError(
            f"mask proposer {name!r} has no setting {unknown[0]!r}; it has {', '.join((*usual, *places))}"
        )
    values = {**usual, **{key: value for key, value in settings.items() if key in usual}}
    for key, value in values.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if isinstance(usual[key], bool) != isinstance(value, bool) or not (
            isinstance(value, bool) or (number and value >= 0)
        ):
            raise RecipeError(
                f"{name}: {key}={value!r}: give a value like the default, {usual[key]!r}, not negative"
            )
    least = {"longest": 16, "segments": 1, "points_per_side": 1}
    for key, value in least.items():
        if key in values and values[key] < value:
            raise RecipeError(f"{name}: {key}={values[key]!r} must be at least {value}")
    if name == "felzenszwalb":
        return MaskProposer(name, _Felzenszwalb(values), values)
    if name == "slic":
        return MaskProposer(name, _Slic(values), values)
    from ovsslib.guides.everything import Everything

    method = Everything(name, values, settings.get("model"), settings.get("device", "cpu"))
    return MaskProposer(name, method, values, method.weights_hash, partition=False, on_disk=True)


def defaults(name: str) -> dict[str, Any]:
    """Settings of a proposer with their defaults. Raises RecipeError for an unknown name."""
    if name not in _DEFAULTS:
        raise RecipeError(f"unknown mask proposer {name!r}; known: {', '.join(NAMES)}")
    return dict(_DEFAULTS[name])


def region_map(masks: np.ndarray) -> np.ndarray:
    """Masks (M, H, W) bool -> one map (H, W) int32: ids 1 to M by rising area, 0 where no mask is.

    Painted from the smallest to the largest, so that a large mask hides the small ones inside it, as CorrCLIP's released
    maps are made (Zhang et al., ICCV 2025).
    """
    canvas = np.zeros(masks.shape[1:], np.int32)
    areas = masks.sum((1, 2))
    for number, index in enumerate(np.argsort(areas, kind="stable"), start=1):
        canvas[masks[index]] = number
    return canvas


def _superpixels() -> Any:
    return require("skimage.segmentation", "guides", "cutting a picture into superpixels")


@dataclass(frozen=True)
class _Felzenszwalb:
    settings: Mapping[str, Any]

    def __call__(self, image: np.ndarray) -> np.ndarray:
        s = self.settings
        return _superpixels().felzenszwalb(
            image, scale=s["scale"], sigma=s["sigma"], min_size=int(s["min_size"]), channel_axis=-1
        )


@dataclass(frozen=True)
class _Slic:
    settings: Mapping[str, Any]

    def __call__(self, image: np.ndarray) -> np.ndarray:
        s = self.settings
        return _superpixels().slic(
            image,
            n_segments=int(s["segments"]),
            compactness=s["compactness"],
            sigma=s["sigma"],
            start_label=0,
            channel_axis=-1,
        )


def _tidy(masks: np.ndarray) -> _Cut:
    """Sorted by rising area, without empty masks, packed."""
    if masks.ndim == 2:
        _, labels, areas = np.unique(masks, return_inverse=True, return_counts=True)
        rank = np.empty(len(areas), np.int32)
        rank[np.argsort(areas, kind="stable")] = np.arange(1, len(areas) + 1)
        return _Cut(rank[labels.reshape(masks.shape)], None, (len(areas), *masks.shape))
    areas = masks.sum((1, 2))
    order = [index for index in np.argsort(areas, kind="stable") if areas[index]]
    masks = masks[order]
    packed = np.packbits(masks.reshape(len(masks), masks.shape[1] * masks.shape[2]), axis=1)
    return _Cut(None, packed, masks.shape)


def _shrunk(image: np.ndarray, longest: int) -> np.ndarray:
    height, width = image.shape[:2]
    if max(height, width) <= longest:
        return image
    ratio = longest / max(height, width)
    size = (max(1, round(width * ratio)), max(1, round(height * ratio)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _nearest(count: int, size: int) -> np.ndarray:
    return ((np.arange(count) + 0.5) * size / count).astype(int)
