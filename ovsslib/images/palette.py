"""One colour-blind-safe palette for masks, legends and plots.

The first seven colours are those of Okabe and Ito (2008) without black. The others are chosen one
by one, each as far as possible from all before it, where the distance between two colours is their
CIEDE2000 difference (plain CIELAB distances make too much of saturated blues) as seen by the eye
that separates them least: a normal one, or one with protanopia or deuteranopia (simulated with the
matrices of Machado, Oliveira and Fernandes 2009). `colours(5)` is thus the beginning of
`colours(50)`.

A class keeps its colour from figure to figure: see `class_colours`.
"""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ovsslib import paths
from ovsslib.errors import OvssError

if TYPE_CHECKING:
    from matplotlib.colors import BoundaryNorm, ListedColormap

BACKGROUND: tuple[int, int, int] = (217, 217, 217)
"""Light grey, kept for pixels that belong to none of the words."""

_OKABE_ITO = (
    (86, 180, 233),
    (230, 159, 0),
    (0, 158, 115),
    (204, 121, 167),
    (0, 114, 178),
    (213, 94, 0),
    (240, 228, 66),
)

# The classes met most often take the first colours, in this order; where a colour comes to mind,
# they have that one or one near it.
_KNOWN_CLASSES = (
    "sky", "dog", "grass", "horse", "sea", "person", "sand", "dirt", "house", "wood floor", "car",
    "tree", "boat", "road", "bird", "snow", "bus", "stone wall", "mountain", "bicycle", "cat",
    "tile floor", "brick wall", "plain wall", "bush", "bench", "bottle", "umbrella", "water",
    "chair", "rug", "cup", "cow", "fork", "building", "ball",
)  # fmt: skip
_KNOWN_RECIPES = (
    "sclip", "naclip", "clearclip", "gem", "resclip", "itaclip", "maskclip", "cliptrase", "clip",
    "thesis-baseline", "thesis-phase1", "thesis-phase2a", "thesis-phase1+2a", "thesis-full",
    "thesis-2c",
)  # fmt: skip

_RGB_TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)
_WHITE = _RGB_TO_XYZ.sum(1)
_VISIONS = (
    np.eye(3),
    np.array(  # protanopia
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    np.array(  # deuteranopia
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
)


def _lab(rgb: np.ndarray, vision: np.ndarray) -> np.ndarray:
    """(N, 3) sRGB in 0..255 -> (N, 3) CIELAB (D65) as the given vision sees it."""
    encoded = rgb / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    visible = np.clip(linear @ vision.T, 0, 1)
    ratio = visible @ _RGB_TO_XYZ.T / _WHITE
    root = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = root.T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


def separation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """How well colours can be told apart, by the eye that does it worst.

    first (N, 3), second (M, 3): sRGB in 0..255. Returns (N, M) CIEDE2000 differences; about 1 is
    just noticeable side by side, 5 is clear at a glance.
    """
    from skimage.color import deltaE_ciede2000

    first, second = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    views = [
        deltaE_ciede2000(_lab(first, vision)[:, None], _lab(second, vision)[None])
        for vision in _VISIONS
    ]
    return np.min(views, axis=0)


@functools.cache
def _candidates() -> np.ndarray:
    """(N, 3) colours neither so dark nor so light that they are lost on a picture or on paper."""
    steps = np.linspace(0, 255, 16).round()
    grid = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    lightness = _lab(grid, _VISIONS[0])[:, 0]
    return grid[(lightness > 25) & (lightness < 92)]


@functools.cache
def _table() -> np.ndarray:
    """(256, 3) uint8, the shipped palette: what :func:`search` found."""
    lines = paths.data("palette.txt").read_text(encoding="ascii").split("\n")
    rows = [bytes.fromhex(line[1:7]) for line in lines if line and not line.startswith("# ")]
    return np.array([list(row) for row in rows], dtype=np.uint8)


def search(count: int) -> np.ndarray:
    """(count, 3) uint8: Okabe and Ito's colours, then the farthest candidate each time. Needs scikit-image."""
    candidates = _candidates()
    # White, black and the background's grey are never near a class colour either.
    reserved = np.array([*_OKABE_ITO, BACKGROUND, (255, 255, 255), (0, 0, 0)], dtype=float)
    distance = separation(candidates, reserved).min(1)
    chosen = [np.array(colour, dtype=float) for colour in _OKABE_ITO]
    while len(chosen) < count:
        best = int(np.argmax(distance))
        chosen.append(candidates[best])
        distance = np.minimum(distance, separation(candidates, candidates[best : best + 1])[:, 0])
    return np.array(chosen[:count]).reshape(-1, 3).astype(np.uint8)


def colours(count: int) -> np.ndarray:
    """The first `count` colours of the palette, (count, 3) uint8 sRGB. Raises OvssError below zero.

    The same count always gives the same colours, and fewer are a beginning of more.
    """
    if count < 0:
        raise OvssError(f"cannot make {count} colours; ask for zero or more")
    # Past 256 the eye is lost anyway: the same colours come again.
    return np.resize(_table(), (count, 3)) if count > 256 else _table()[:count].copy()


def _places(names: Sequence[str], known: Sequence[str]) -> list[int]:
    """A place in the palette for each name: the known at their own, others where their name's hash
    points.
    """
    # The first 40 colours are far apart from each other; a longer list needs more of them.
    table = 40 if len(names) <= 28 else max(64, len(names))
    places: dict[str, int] = {}
    occupied: set[int] = set()
    rank = {name: place for place, name in enumerate(known)}
    for name in sorted(dict.fromkeys(names), key=lambda name: (name not in rank, name)):
        place = rank.get(name)
        if place is None:
            place = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") % table
        while place in occupied:
            place = (place + 1) % table
        places[name] = place
        occupied.add(place)
    return [places[name] for name in names]


def class_colours(names: Sequence[str], kinds: Sequence[str] | None = None) -> np.ndarray:
    """One colour per class name, (C, 3) uint8 sRGB; a class has the same one in every figure where
    it can.

    names: class names; case and the order of the list do not matter. The name "background", and
    every name whose entry of `kinds` is "background", is light grey. Common classes have places of
    their own in the palette; any other name gets the place that its spelling points to, and moves
    on only if another name of this list has it.
    """
    if kinds is not None and len(kinds) != len(names):
        raise OvssError(f"{len(names)} class names but {len(kinds)} kinds; give one kind per name")
    plain = [name.strip().lower() for name in names]
    grey = [
        name == "background" or (kinds is not None and kinds[index] == "background")
        for index, name in enumerate(plain)
    ]
    classes = [name for name, is_grey in zip(plain, grey, strict=True) if not is_grey]
    places = iter(_places(classes, _KNOWN_CLASSES))
    table = colours(max(64, len(classes)))
    rows = [BACKGROUND if is_grey else table[next(places)] for is_grey in grey]
    return np.array(rows, dtype=np.uint8).reshape(-1, 3)


def to_hex(colour: Sequence[int]) -> str:
    """(3,) values in 0..255 -> "#rrggbb"."""
    return "#" + "".join(f"{int(value):02x}" for value in colour)


def recipe_colour(name: str) -> str:
    """The colour of a recipe's line or bar in every plot, "#rrggbb" as matplotlib takes it."""
    return to_hex(colours(64)[_places([name], _KNOWN_RECIPES)[0]])


def recipe_colours(names: Sequence[str]) -> Mapping[str, str]:
    """Colours of several recipes of one plot, all different: name -> "#rrggbb"."""
    table = colours(max(64, len(names)))
    return {
        name: to_hex(table[place])
        for name, place in zip(names, _places(names, _KNOWN_RECIPES), strict=True)
    }


def colormap(names: Sequence[str]) -> tuple["ListedColormap", "BoundaryNorm"]:
    """matplotlib colormap and norm that draw a label map of these classes: `imshow(mask, cmap=...,
    norm=...)`.
    """
    from matplotlib.colors import BoundaryNorm, ListedColormap

    table = ListedColormap(class_colours(names) / 255, name="ovsslib")
    return table, BoundaryNorm(np.arange(len(names) + 1) - 0.5, len(names))
