"""Polygons, figures made of them, and the canvas they are painted on.

A figure lives in its own coordinates (x right, y down, a few units across). The canvas keeps the
picture and, pixel for pixel, which instance and which part covers it, so masks are exact.
"""

from dataclasses import dataclass, field
from math import atan2, cos, hypot, pi, sin
from typing import NamedTuple

import cv2
import numpy as np

from ovsslib.scenes.classes import COLOURS

Colour = tuple[float, float, float]
Points = list[tuple[float, float]]

_SUBPIXEL_BITS = 4
_PART_BITS = 4


class Piece(NamedTuple):
    """One polygon of a figure. Without a colour it only marks the mask (the gaps of a wheel)."""

    points: Points
    colour: Colour | None
    part: int = 0


@dataclass
class Figure:
    """A thing to paint: its polygons from back to front and the colour word said of it.

    `grain` is the strength of its surface texture (fur, leaves), 0 for smooth.
    """

    pieces: list[Piece]
    colour: str | None
    grain: float = 0.05
    tilt: float = 0.06
    airborne: bool = False
    bounds: tuple[float, float, float, float] = field(init=False)

    def __post_init__(self) -> None:
        xs = [x for piece in self.pieces for x, _ in piece.points]
        ys = [y for piece in self.pieces for _, y in piece.points]
        self.bounds = (min(xs), min(ys), max(xs), max(ys))


def choose(rng: np.random.Generator, options):
    """One of `options`, all equally likely."""
    return options[int(rng.integers(len(options)))]


def jitter(rng: np.random.Generator, colour: Colour, spread: float = 9.0) -> Colour:
    """`colour` moved at random: mostly in brightness, a little in hue."""
    shift = rng.normal(0, spread)
    hue_shift = rng.normal(0, spread * 0.5, 3)
    red, green, blue = (
        min(255.0, max(0.0, c + shift + o)) for c, o in zip(colour, hue_shift, strict=True)
    )
    return red, green, blue


def shade(colour: Colour, factor: float) -> Colour:
    """`colour` made darker (factor below 1) or brighter."""
    red, green, blue = (min(255.0, max(0.0, c * factor)) for c in colour)
    return red, green, blue


def paint(rng: np.random.Generator, words: tuple[str, ...] = tuple(COLOURS)) -> tuple[str, Colour]:
    """A colour word and a shade of that colour."""
    word = choose(rng, words)
    return word, jitter(rng, COLOURS[word])


def ellipse(
    x: float, y: float, rx: float, ry: float | None = None, turn: float = 0.0, count: int = 18
) -> Points:
    """Ellipse with radii rx, ry (a circle if ry is None), turned by `turn` radians."""
    ry = rx if ry is None else ry
    c, s = cos(turn), sin(turn)
    ring = ((rx * cos(2 * pi * i / count), ry * sin(2 * pi * i / count)) for i in range(count))
    return [(x + u * c - v * s, y + u * s + v * c) for u, v in ring]


def box(x0: float, y0: float, x1: float, y1: float) -> Points:
    """Rectangle between two corners."""
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def rounded(x0: float, y0: float, x1: float, y1: float, radius: float) -> Points:
    """Rectangle with rounded corners."""
    points = []
    corners = ((x1, y0, -1), (x1, y1, 0), (x0, y1, 1), (x0, y0, 2))
    for x, y, quarter in corners:
        cx = x - radius if x == x1 else x + radius
        cy = y - radius if y == y1 else y + radius
        for step in range(4):
            angle = (quarter + step / 3) * pi / 2
            points.append((cx + radius * cos(angle), cy + radius * sin(angle)))
    return points


def limb(p, q, width: float, end_width: float | None = None) -> Points:
    """Capsule from p to q with rounded ends; widths are half widths (radii)."""
    end_width = width if end_width is None else end_width
    heading = atan2(q[1] - p[1], q[0] - p[0])
    points = []
    for (x, y), radius, start in ((q, end_width, heading - pi / 2), (p, width, heading + pi / 2)):
        for step in range(6):
            angle = start + pi * step / 5
            points.append((x + radius * cos(angle), y + radius * sin(angle)))
    return points


def bar(p, q, width: float) -> Points:
    """Straight bar from p to q with square ends; `width` is the half width."""
    dx, dy = q[0] - p[0], q[1] - p[1]
    length = hypot(dx, dy) or 1.0
    nx, ny = -dy / length * width, dx / length * width
    return [(p[0] + nx, p[1] + ny), (q[0] + nx, q[1] + ny),
            (q[0] - nx, q[1] - ny), (p[0] - nx, p[1] - ny)]  # fmt: skip


def ring(x: float, y: float, outer: float, inner: float, count: int = 22) -> Points:
    """Circular band; the even-odd rule of the polygon filler leaves the middle open."""
    edge, hole = ellipse(x, y, outer, count=count), ellipse(x, y, inner, count=count)
    return [*edge, edge[0], *(hole[0], *hole[::-1])]


def polar(x: float, y: float, angle: float, length: float) -> tuple[float, float]:
    """The point `length` from (x, y) in direction `angle`: 0 is down, positive to the right."""
    return x + sin(angle) * length, y + cos(angle) * length


class Canvas:
    """A picture (H,W,3) uint8 being painted, and which instance and part covers each pixel."""

    def __init__(self, image: np.ndarray) -> None:
        self.image = image
        self.codes = np.zeros(image.shape[:2], np.uint16)

    def put(self, figure: Figure, matrix, offset, instance: int, gain: float = 1.0) -> None:
        """Paint `figure` as `instance` (1..4095); a point p of it lands at matrix @ p + offset.

        The coordinates are rounded to 1/16 pixel before filling, so the same numbers always give
        the same bytes. Colours are multiplied by `gain`.
        """
        flat = np.array([xy for piece in figure.pieces for xy in piece.points])
        flat = flat @ np.asarray(matrix).T + offset
        fixed = np.round(flat * (1 << _SUBPIXEL_BITS)).astype(np.int32)
        start = 0
        for points, colour, part in figure.pieces:
            polygon = [fixed[start : start + len(points)]]
            start += len(points)
            if colour is not None:
                fill = tuple(int(min(255.0, c * gain)) for c in colour)
                cv2.fillPoly(self.image, polygon, fill, cv2.LINE_AA, _SUBPIXEL_BITS)
            code = (instance << _PART_BITS) + part
            cv2.fillPoly(self.codes, polygon, code, cv2.LINE_8, _SUBPIXEL_BITS)

    def shadow(self, x: float, y: float, rx: float, ry: float, strength: float) -> None:
        """Darken an ellipse of the ground (no mask: a shadow belongs to what it falls on)."""
        height, width = self.image.shape[:2]
        x0, x1 = max(0, int(x - rx)), min(width, int(x + rx) + 1)
        y0, y1 = max(0, int(y - ry)), min(height, int(y + ry) + 1)
        if x0 >= x1 or y0 >= y1:
            return
        u = (np.arange(x0, x1, dtype=np.float32) - x) / max(rx, 1)
        v = (np.arange(y0, y1, dtype=np.float32) - y) / max(ry, 1)
        depth = np.clip(1.2 - (u * u)[None] - (v * v)[:, None], 0, 1) * strength
        region = self.image[y0:y1, x0:x1]
        region[:] = (region * (1 - depth[..., None])).astype(np.uint8)

    @property
    def instances(self) -> np.ndarray:
        """Instance of each pixel (H,W) uint16, 0 where only stuff is."""
        return self.codes >> _PART_BITS

    @property
    def parts(self) -> np.ndarray:
        """Part of each pixel (H,W) uint8, 0 for none."""
        return (self.codes & ((1 << _PART_BITS) - 1)).astype(np.uint8)
