"""Drawing a scene: one seed and one index give one picture with exact masks.

The same (seed, index, size) gives the same bytes with numpy 2.4, Pillow 13.0 and OpenCV 5.0 on one
kind of processor; `PINNED` names the versions the committed pictures were drawn with. Another
version or processor may move single grey levels, hardly ever a mask.
"""

from dataclasses import dataclass
from math import cos, sin
from typing import cast

import cv2
import numpy as np

from ovsslib.errors import DataError
from ovsslib.scenes.canvas import Canvas
from ovsslib.scenes.classes import CLASS_INDEX, STUFF
from ovsslib.scenes.layout import (
    FLOORS,
    GROUNDS,
    NATIVE_SIZE,
    Layout,
    Placement,
    lay_ground,
    place_things,
)
from ovsslib.scenes.textures import HEIGHT, PER_CLASS, WIDTH, light_field, noise_field, texture

PINNED = {"numpy": "2.4", "pillow": "13.0", "opencv-python-headless": "5.0"}

_PERSPECTIVE = (*GROUNDS, *FLOORS)
_MIN_SIDE = 32


@dataclass(frozen=True)
class SceneObject:
    """A thing in a scene: class name, colour word (None if none fits), instance id (1, 2, ...) and
    the number of pixels of it that can be seen."""

    name: str
    colour: str | None
    instance: int
    pixels: int


@dataclass(frozen=True)
class Scene:
    """A picture with everything known about it.

    image: (H,W,3) uint8 RGB. labels: (H,W) uint8, index into CLASSES. instances: (H,W) uint16,
    0 where only stuff is. parts: (H,W) uint8, index into PARTS. objects: the things of which
    something can be seen, from back to front. layout: how the ground was laid out.
    """

    image: np.ndarray
    labels: np.ndarray
    instances: np.ndarray
    parts: np.ndarray
    objects: tuple[SceneObject, ...]
    layout: Layout


def _cut(rng, seed: int, name: str, height: int, width: int, start: float) -> np.ndarray:
    """A piece of a texture (height,width,3) uint8, zoomed, mirrored, tinted; grounds get closer
    together towards row `start`, the horizon."""
    source = texture(seed, name, int(rng.integers(PER_CLASS)))
    ratio = min(HEIGHT / height, WIDTH / width) * rng.uniform(0.6, 1.0)
    # At the native size a texture pixel is 1 to 1.33 picture pixels; other sizes keep the look.
    native = min(NATIVE_SIZE[0] / height, NATIVE_SIZE[1] / width) * rng.uniform(0.75, 1.0)
    ratio = min(ratio, native)
    rows, columns = max(8, int(height * ratio)), max(8, int(width * ratio))
    y, x = int(rng.integers(HEIGHT - rows + 1)), int(rng.integers(WIDTH - columns + 1))
    piece = source[y : y + rows, x : x + columns]
    piece = cv2.resize(piece, (width, height), interpolation=cv2.INTER_LINEAR)
    if rng.random() < 0.5:
        piece = cv2.flip(piece, 1)
    if name in _PERSPECTIVE and start > 0 and rng.random() < 0.6:
        depth = np.clip((np.arange(height) - start) / max(1.0, height - start), 0, 1)
        bent = depth ** rng.uniform(0.55, 0.85) * (height - 1)
        piece = piece[bent.astype(int)]
    tint = rng.normal(1.0, 0.045) + rng.normal(0, 0.015, 3)
    table = np.clip(np.arange(256)[:, None] * tint + rng.normal(0, 4), 0, 255).astype(np.uint8)
    return cv2.LUT(piece, np.ascontiguousarray(table[None]))


def _paint_ground(rng, seed: int, labels: np.ndarray, layout: Layout) -> np.ndarray:
    height, width = labels.shape
    image = None
    for index in np.flatnonzero(np.bincount(labels.ravel(), minlength=len(STUFF))):
        piece = _cut(rng, seed, STUFF[index], height, width, layout.horizon)
        if image is None:
            image = piece
        else:
            mask = (labels == index).astype(np.uint8)
            cv2.copyTo(piece, mask, image)
    return cast(np.ndarray, image)


def _paint_things(rng, canvas: Canvas, placed: list[Placement], layout: Layout) -> None:
    shadows = layout.kind in ("outdoor", "indoor") and rng.random() < 0.7
    depth = rng.uniform(0.2, 0.5)
    for instance, thing in enumerate(placed, start=1):
        left, top, right, bottom = thing.figure.bounds
        side = -1 if thing.flip else 1
        c, s = cos(thing.turn), sin(thing.turn)
        across, down = thing.scale * thing.stretch, thing.scale / thing.stretch
        matrix = ((c * side * across, -s * down), (s * side * across, c * down))
        middle = ((left + right) / 2, (top + bottom) / 2)
        offset = (thing.x - matrix[0][0] * middle[0] - matrix[0][1] * middle[1],
                  thing.y - matrix[1][0] * middle[0] - matrix[1][1] * middle[1])  # fmt: skip
        if shadows and not thing.figure.airborne and thing.name != "rug":
            half = (right - left) / 2 * across
            foot = thing.y + (bottom - top) / 2 * down
            canvas.shadow(thing.x + half * 0.15, foot, half * 1.05, max(2.0, half * 0.2), depth)
        canvas.put(thing.figure, matrix, offset, instance, float(rng.uniform(0.86, 1.1)))


def _light(
    rng, seed: int, image: np.ndarray, instances: np.ndarray, placed: list[Placement]
) -> np.ndarray:
    """Surface grain of the things, blur, light from one side, tint, contrast and noise."""
    height, width = image.shape[:2]
    shape = (height, width)
    # Gain of each pixel in steps of 1/128: grain * blotches, and a ramp of light from one side.
    grains = np.zeros(256, np.float32)
    for number, thing in enumerate(placed, start=1):
        grains[number] = 128 * thing.figure.grain
    field = _fit(light_field(seed, int(rng.integers(4))), rng, shape)
    gain: np.ndarray = cv2.multiply(cv2.LUT(instances.astype(np.uint8), grains), field)
    gain += (
        np.linspace(-1, 1, width, dtype=np.float32) * np.float32(128 * rng.normal(0, 0.07)) + 128
    )
    gain = cv2.convertScaleAbs(gain)
    lit = cv2.multiply(image, cv2.merge((gain, gain, gain)), scale=1 / 128)
    if rng.random() < 0.25:
        sigma = float(rng.uniform(0.4, 1.2)) * max(1.0, height / NATIVE_SIZE[0])
        lit = cv2.GaussianBlur(lit, (0, 0), sigma)
    contrast, shift = rng.uniform(0.84, 1.12), rng.normal(0, 9)
    tint = 1 + rng.normal(0, 0.025, 3)
    levels = ((np.arange(256)[:, None] - 128) * contrast + 128 + shift) * tint
    lit = cv2.LUT(lit, np.clip(levels, 0, 255).astype(np.uint8)[None])
    amount = int(rng.integers(1, 4))
    steps = np.clip((np.arange(256) - 128) * amount / 32 + 128, 0, 255).astype(np.uint8)
    noise = cv2.LUT(_fit(noise_field(seed), rng, shape), steps)
    return cv2.addWeighted(lit, 1, cv2.merge((noise, noise, noise)), 1, -128)


def _fit(field: np.ndarray, rng, shape: tuple[int, int]) -> np.ndarray:
    """A random window of `field` of the wanted shape; the field is repeated if it is too small."""
    if field.shape[0] < shape[0] or field.shape[1] < shape[1]:
        field = np.tile(field, (-(-shape[0] // field.shape[0]), -(-shape[1] // field.shape[1])))
    y = int(rng.integers(field.shape[0] - shape[0] + 1))
    x = int(rng.integers(field.shape[1] - shape[1] + 1))
    return field[y : y + shape[0], x : x + shape[1]]


def draw(seed: int, index: int, size: tuple[int, int] = NATIVE_SIZE) -> Scene:
    """Draw picture `index` of the world `seed`.

    seed: names the split and its textures (>= 0). index: which picture (>= 0). size: (height,
    width) in pixels, each at least 32; the native size is 224 x 298. Raises DataError for values
    out of range.
    """
    height, width = size
    if seed < 0 or index < 0:
        raise DataError(f"seed {seed} and index {index} must not be negative; use 0, 1, 2, ...")
    if height < _MIN_SIDE or width < _MIN_SIDE:
        raise DataError(f"size {size} is too small; each side needs at least {_MIN_SIDE} pixels")
    rng = np.random.default_rng(np.random.SeedSequence([seed, index]))
    ground, layout = lay_ground(rng, height, width)
    placed = place_things(rng, layout, height, width)
    canvas = Canvas(_paint_ground(rng, seed, ground, layout))
    _paint_things(rng, canvas, placed, layout)
    instances = canvas.instances
    pixels = np.bincount(instances.ravel(), minlength=len(placed) + 1)
    image = _light(rng, seed, canvas.image, instances, placed)
    by_instance = np.array([0, *(CLASS_INDEX[thing.name] for thing in placed)], np.uint8)
    labels = np.where(instances > 0, by_instance[instances], ground)
    objects = tuple(
        SceneObject(thing.name, thing.figure.colour, number, int(pixels[number]))
        for number, thing in enumerate(placed, start=1)
        if pixels[number]
    )
    return Scene(image, labels, instances, canvas.parts, objects, layout)


def contact_sheet(
    scenes: list[Scene], columns: int = 6, masks: bool = True, gap: int = 4
) -> np.ndarray:
    """Scenes side by side (H,W,3) uint8, each above its coloured label map if `masks`.

    All scenes must have one size. Raises DataError for an empty list.
    """
    if not scenes:
        raise DataError(
            "a contact sheet needs at least one scene; draw some with draw(seed, index)"
        )
    hues = label_colours()
    tiles = []
    for scene in scenes:
        stack = [scene.image, hues[scene.labels]] if masks else [scene.image]
        tiles.append(
            np.pad(np.concatenate(stack), ((0, gap), (0, gap), (0, 0)), constant_values=255)
        )
    while len(tiles) % columns:
        tiles.append(np.full_like(tiles[0], 255))
    rows = [np.concatenate(tiles[i : i + columns], 1) for i in range(0, len(tiles), columns)]
    return np.concatenate(rows)


def label_colours() -> np.ndarray:
    """Colours (256,3) uint8 of label maps: hues a golden angle apart, 255 in black."""
    index = np.arange(256)
    hue = (index * 0.61803398875) % 1 * 180
    hsv = np.stack([hue, np.where(index % 2, 220, 150), np.where(index % 3, 230, 170)], 1)
    colours = cv2.cvtColor(hsv.astype(np.uint8)[None], cv2.COLOR_HSV2RGB)[0]
    colours[255] = 0
    return colours
