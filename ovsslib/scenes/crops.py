"""The training stream: captioned crops of freshly drawn pictures. No mask or label leaves it."""

from collections.abc import Iterable, Iterator
from itertools import count as count_from
from typing import cast

import cv2
import numpy as np

from ovsslib.errors import DataError
from ovsslib.scenes.captions import caption
from ovsslib.scenes.classes import CLASS_INDEX, STUFF
from ovsslib.scenes.drawing import Scene, draw
from ovsslib.scenes.layout import NATIVE_SIZE
from ovsslib.scenes.looks import in_look
from ovsslib.scenes.wordings import choose_look, wording

_STREAM = 0xC409
_SMALLEST = 44
# Share of plain captions among the first ones of crops that are told of in other words as well.
_PLAIN = 0.6


def _clamp(x: float, y: float, side: int, height: int, width: int) -> tuple[int, int, int]:
    """Square window (top, left, side) near centre (x, y) that lies inside the picture."""
    left = int(min(max(0, round(x - side / 2)), width - side))
    top = int(min(max(0, round(y - side / 2)), height - side))
    return top, left, side


def _around_thing(rng, scene: Scene) -> tuple[int, int, int] | None:
    """A window that one thing fills to 30-95% of its side, persons twice as often as others."""
    height, width = scene.labels.shape
    least = 0.0025 * height * width
    things = [thing for thing in scene.objects if thing.pixels >= least]
    if not things:
        return None
    weights = np.array([2.0 if thing.name == "person" else 1.0 for thing in things])
    thing = things[int(rng.choice(len(things), p=weights / weights.sum()))]
    mask = scene.instances == thing.instance
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    tall, wide = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
    side = max(tall, wide) / rng.uniform(0.3, 0.95) ** 0.8
    side = int(min(max(side, _SMALLEST), height, width))
    x, y = (columns[0] + columns[-1]) / 2, (rows[0] + rows[-1]) / 2
    slack = max(0.0, (side - max(tall, wide)) / 2) + 0.06 * side
    return _clamp(
        x + rng.uniform(-slack, slack), y + rng.uniform(-slack, slack), side, height, width
    )


def _around_stuff(rng, scene: Scene) -> tuple[int, int, int]:
    """A window that is mostly of one material, the best of four random ones."""
    height, width = scene.labels.shape
    present = np.flatnonzero(np.bincount(scene.labels.ravel(), minlength=len(STUFF))[: len(STUFF)])
    material = STUFF[int(present[rng.integers(len(present))])] if len(present) else None
    longest = min(height, width)
    best, best_share = None, -1.0
    for _ in range(4):
        side = int(rng.uniform(0.3, 0.85) * longest)
        top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
        view = scene.labels[top : top + side : 4, left : left + side : 4]
        share = float((view == CLASS_INDEX[material]).mean()) if material else 0.0
        if share > best_share:
            best, best_share = (top, left, side), share
    return cast("tuple[int, int, int]", best)


def _largest_square(rng, scene: Scene) -> tuple[int, int, int]:
    height, width = scene.labels.shape
    side = min(height, width)
    return int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1)), side


def crops_of(
    scene: Scene, rng: np.random.Generator, crop_size: int, number: int, wordings: int = 0
) -> list[tuple[np.ndarray, str | tuple[str, ...]]]:
    """`number` captioned square crops of a scene: (image (s,s,3) uint8 RGB, caption).

    wordings: with n above 0 the crop may come in a look, and its caption is a tuple of n captions: the first is mostly a
    plain one, the others are in other words (:mod:`ovsslib.scenes.wordings`).
    """
    pairs: list[tuple[np.ndarray, str | tuple[str, ...]]] = []
    for _ in range(number):
        kind = rng.random()
        window = _around_thing(rng, scene) if kind < 0.48 else None
        if window is None:
            window = (
                _around_stuff(rng, scene) if 0.48 <= kind < 0.68 else _largest_square(rng, scene)
            )
        top, left, side = window
        view = slice(top, top + side), slice(left, left + side)
        text = caption(rng, scene.labels[view], scene.instances[view], scene.objects)
        image = scene.image[view]
        if side != crop_size:
            method = cv2.INTER_AREA if side > crop_size else cv2.INTER_LINEAR
            image = cv2.resize(image, (crop_size, crop_size), interpolation=method)
        image = np.ascontiguousarray(image)
        if not wordings:
            pairs.append((image, text))
            continue
        look = choose_look(rng)
        contents = scene.labels[view], scene.instances[view], scene.objects, scene.parts[view]
        texts = [wording(rng, *contents, look) for _ in range(wordings)]
        if rng.random() < _PLAIN:
            texts[0] = text
        pairs.append((in_look(image, look, rng), tuple(texts)))
    return pairs


def training_crops(
    seed: int,
    start_index: int = 0,
    count: int | None = None,
    crop_size: int = 224,
    crops_per_picture: int = 3,
    step: int = 1,
    wordings: int = 0,
) -> Iterator[tuple[np.ndarray, str | tuple[str, ...]]]:
    """Captioned crops of the pictures start_index, start_index + step, ... of the world `seed`.

    Yields (image (crop_size,crop_size,3) uint8 RGB, caption, or `wordings` of them); never a label. count: number of
    pictures, None for no end. The pairs of one picture follow each other, so shuffle within a
    buffer. Worker w of n takes start_index=w, step=n; pairs depend on (seed, picture index) alone.
    Raises DataError for values out of range.
    """
    if crop_size < 16 or crops_per_picture < 1 or step < 1:
        raise DataError(
            f"crop_size {crop_size} must be at least 16, crops_per_picture {crops_per_picture} and "
            f"step {step} at least 1"
        )
    indices: Iterable[int] = count_from(start_index, step)
    if count is not None:
        indices = range(start_index, start_index + count * step, step)
    for index in indices:
        rng = np.random.default_rng(np.random.SeedSequence([seed, index, _STREAM]))
        scene = draw(seed, index, NATIVE_SIZE)
        yield from crops_of(scene, rng, crop_size, crops_per_picture, wordings)
