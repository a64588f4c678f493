"""Looks of a training picture that words of a caption name: blurry, dark, a sketch, pixelated.

A look changes the pixels of a crop, so that "a blurry photo of a dog." is said of pictures that are blurry. The words are
those of the prompt templates of the field; what each does to a drawn picture is this project's choice.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np


def _blurry(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), rng.uniform(1.2, 2.6))


def _dark(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return image * rng.uniform(0.3, 0.55)


def _bright(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return 255 - (255 - image.astype(np.float32)) * rng.uniform(0.35, 0.6)


def _grey(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)


def _pixelated(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    side = len(image)
    small = cv2.resize(image, (int(side / rng.uniform(3, 5)),) * 2, interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (side, side), interpolation=cv2.INTER_NEAREST)


def _low_resolution(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    side = len(image)
    small = cv2.resize(image, (int(side / rng.uniform(3, 5)),) * 2, interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (side, side), interpolation=cv2.INTER_LINEAR)


def _compressed(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    quality = int(rng.integers(4, 11))
    _, code = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR))[..., ::-1]


def _bad(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return _blurry(image, rng) + rng.normal(0, 14, image.shape)


def _faint(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return 128 + (image.astype(np.float32) - 128) * rng.uniform(0.2, 0.4)


def _dirty(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    side = len(image)
    spots = cv2.resize(rng.random((9, 9)).astype(np.float32), (side, side))
    share = np.clip((spots - 0.55) * 4, 0, 0.7)[..., None]
    return image * (1 - share) + np.array([86, 66, 44]) * share


def _edges(image: np.ndarray) -> np.ndarray:
    """(S, S, 1) share of ink, 0 to 1: dark lines where the brightness changes."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    slope = np.hypot(cv2.Sobel(grey, -1, 1, 0), cv2.Sobel(grey, -1, 0, 1))
    return np.clip(slope / 160, 0, 1)[..., None]


def _sketch(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return 250 - 220 * _edges(image)


def _doodle(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    ink = np.array(((40, 60, 190), (190, 50, 50), (30, 130, 60))[int(rng.integers(3))])
    edges = _edges(cv2.GaussianBlur(image, (0, 0), 1.2))
    return 250 * (1 - edges) + ink * edges


def _painting(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return cv2.medianBlur(image, 5) + rng.normal(0, 5, image.shape[:2])[..., None]


def _cartoon(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    flat = cv2.medianBlur(image, 3) // 64 * 64 + 32
    return flat * (1 - 0.8 * _edges(image))


def _video_game(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return _pixelated(image, rng) // 51 * 51 + 25


def _sculpture(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return _grey(image, rng) * np.array([0.98, 0.94, 0.86])


def _graffiti(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    vivid = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    vivid[..., 1] = np.clip(vivid[..., 1].astype(np.int32) * 2 + 60, 0, 255)
    return cv2.cvtColor(vivid, cv2.COLOR_HSV2RGB) * (1 - 0.9 * _edges(image))


def _plastic(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    smooth = cv2.bilateralFilter(image, 7, 60, 5).astype(np.float32)
    return smooth + 60 * (smooth.max(axis=2, keepdims=True) > 170)


#: Word of a template -> what the picture then looks like. Longer words stand before words that they contain.
LOOKS: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "black and white": _grey,
    "low resolution": _low_resolution,
    "jpeg corrupted": _compressed,
    "hard to see": _faint,
    "video game": _video_game,
    "pixelated": _pixelated,
    "sculpture": _sculpture,
    "rendering": _painting,
    "rendition": _painting,
    "painting": _painting,
    "graffiti": _graffiti,
    "cartoon": _cartoon,
    "plastic": _plastic,
    "blurry": _blurry,
    "bright": _bright,
    "sketch": _sketch,
    "doodle": _doodle,
    "drawing": _sketch,
    "dirty": _dirty,
    "dark": _dark,
    "art ": _painting,
    "bad": _bad,
}


def look_of(template: str) -> str | None:
    """The word of :data:`LOOKS` that a template names, or None."""
    return next((word for word in LOOKS if word in template.lower()), None)


def in_look(image: np.ndarray, look: str | None, rng: np.random.Generator) -> np.ndarray:
    """A square crop (S, S, 3) uint8 RGB in a look of :data:`LOOKS`; None leaves it as it is."""
    if look is None:
        return image
    changed = np.asarray(LOOKS[look](image, rng), np.float32)
    changed = np.broadcast_to(changed, image.shape)
    return np.clip(np.rint(changed), 0, 255).astype(np.uint8)
