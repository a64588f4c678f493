"""Where materials and things go in a picture: grounds, walls, patchworks, placing of things."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ovsslib.scenes import animals, objects, outdoors, people, vehicles
from ovsslib.scenes.canvas import Figure, choose
from ovsslib.scenes.classes import CLASS_INDEX, STUFF, THINGS
from ovsslib.scenes.textures import smooth_noise

NATIVE_SIZE = (224, 298)

MAKERS: dict[str, Callable[[np.random.Generator], Figure]] = {
    "person": people.person,
    "dog": animals.dog,
    "cat": animals.cat,
    "horse": animals.horse,
    "bird": animals.bird,
    "cow": animals.cow,
    "car": vehicles.car,
    "bus": vehicles.bus,
    "bicycle": vehicles.bicycle,
    "boat": vehicles.boat,
    "tree": outdoors.tree,
    "house": outdoors.house,
    "bottle": objects.bottle,
    "fork": objects.fork,
    "cup": objects.cup,
    "ball": objects.ball,
    "umbrella": objects.umbrella,
    "chair": objects.chair,
    "rug": objects.rug,
    "bench": objects.bench,
}

GROUNDS = ("grass", "sea", "sand", "road", "snow", "dirt")
WALLS = ("wall-brick", "wall-stone", "wall-plain")
FLOORS = ("floor-wood", "floor-tile")

#: Smallest and largest share of the frame that the box around a thing covers, among several.
_SHARES = {
    "person": (0.025, 0.44), "dog": (0.008, 0.23), "cat": (0.008, 0.21), "horse": (0.015, 0.36),
    "bird": (0.006, 0.18), "cow": (0.015, 0.34), "car": (0.010, 0.29), "bus": (0.02, 0.47),
    "bicycle": (0.012, 0.29), "boat": (0.010, 0.34), "tree": (0.015, 0.39), "house": (0.02, 0.49),
    "bottle": (0.006, 0.13), "fork": (0.006, 0.13), "cup": (0.006, 0.16), "ball": (0.005, 0.16),
    "umbrella": (0.012, 0.29), "chair": (0.012, 0.26), "rug": (0.03, 0.31), "bench": (0.012, 0.26),
}  # fmt: skip

#: Things that are likelier on some grounds; a third of the things follow it.
_AT_HOME = {
    "sea": ("boat", "boat", "bird", "person"),
    "road": ("car", "bus", "bicycle", "person"),
    "grass": ("horse", "cow", "dog", "tree", "person", "bench"),
    "snow": ("tree", "house", "person", "dog"),
    "sand": ("umbrella", "ball", "person", "bird"),
    "dirt": ("horse", "tree", "house", "cow"),
    "floor-wood": ("chair", "cat", "rug", "cup", "person"),
    "floor-tile": ("chair", "bottle", "fork", "cup", "person"),
}
_PERSON_WEIGHT = 2.4
_LARGE_PERSONS = 0.15
_WEIGHTS = np.array([_PERSON_WEIGHT if name == "person" else 1.0 for name in THINGS])
_WEIGHTS /= _WEIGHTS.sum()


@dataclass(frozen=True)
class Layout:
    """How the ground of a picture is laid out.

    kind: outdoor, indoor, patchwork or single; horizon: row where the ground begins (0 if the
    whole frame is ground); ground: class that most things stand on.
    """

    kind: str
    horizon: float
    ground: str


@dataclass(frozen=True)
class Placement:
    """A thing to paint: its figure, its centre, its scale (pixels per unit) and shape."""

    name: str
    figure: Figure
    x: float
    y: float
    scale: float
    turn: float
    flip: bool
    stretch: float


def _wobble(rng: np.random.Generator, width: int, amount: float) -> np.ndarray:
    """Uneven line (1,W) float64 with nine random supports."""
    supports = rng.standard_normal(9)
    return amount * np.interp(np.arange(width), np.linspace(0, width, 9), supports)[None, :]


def _slope(rng: np.random.Generator, width: int, amount: float) -> np.ndarray:
    return (np.arange(width)[None, :] - width / 2) * rng.normal(0, amount)


def _outdoor(rng, labels: np.ndarray) -> Layout:
    height, width = labels.shape
    rows = np.arange(height)[:, None]
    horizon = rng.uniform(0.2, 0.62) * height
    ground = choose(rng, GROUNDS)
    labels[:] = CLASS_INDEX["sky"]
    edge = horizon + _wobble(rng, width, choose(rng, (0.0, 0.0, 0.015)) * height)
    backdrop = rng.random()
    if backdrop < 0.38:
        peaks = horizon - rng.uniform(0.08, 0.26) * height + _wobble(rng, width, 0.06 * height)
        labels[rows > peaks] = CLASS_INDEX["mountain"]
    if 0.28 < backdrop < 0.66:
        tops = horizon - rng.uniform(0.05, 0.2) * height + _wobble(rng, width, 0.03 * height)
        labels[rows > tops] = CLASS_INDEX["bush"]
    elif backdrop > 0.9:
        labels[int(horizon - rng.uniform(0.1, 0.25) * height) :] = CLASS_INDEX[choose(rng, WALLS)]
    labels[rows > edge] = CLASS_INDEX[ground]
    second = rng.random()
    if second < 0.3:
        second_ground = choose(rng, [name for name in GROUNDS if name != ground])
        line = horizon + rng.uniform(0.15, 0.4) * height + _slope(rng, width, 0.15)
        labels[rows > line + _wobble(rng, width, choose(rng, (0.01, 0.02, 0.04)) * height)] = (
            CLASS_INDEX[second_ground]
        )
    elif second < 0.45 and ground != "road":
        start, target = rng.uniform(0.25, 0.75, 2) * width
        spread = rng.uniform(0.15, 0.4) * width
        depth = (rows - horizon) / (height - horizon)
        middle = start + (target - start) * depth
        path = np.abs(np.arange(width)[None, :] - middle) < 3 + spread * depth
        labels[path & (rows > edge)] = CLASS_INDEX["road" if rng.random() < 0.7 else "dirt"]
    return Layout("outdoor", horizon, ground)


def _indoor(rng, labels: np.ndarray) -> Layout:
    height, width = labels.shape
    rows = np.arange(height)[:, None]
    horizon = rng.uniform(0.3, 0.68) * height
    wall, ground = choose(rng, WALLS), choose(rng, FLOORS)
    labels[:] = CLASS_INDEX[wall]
    if rng.random() < 0.2:
        second_wall = choose(rng, [name for name in WALLS if name != wall])
        labels[:, int(rng.uniform(0.25, 0.75) * width) :] = CLASS_INDEX[second_wall]
    edge = horizon + _slope(rng, width, 0.05)
    labels[rows > edge] = CLASS_INDEX[ground]
    if rng.random() < 0.15:
        second_floor = choose(rng, [name for name in FLOORS if name != ground])
        labels[(rows > edge) & (rows > horizon + 0.2 * height + _slope(rng, width, 0.3))] = (
            CLASS_INDEX[second_floor]
        )
    return Layout("indoor", horizon, ground)


def _patchwork(rng, labels: np.ndarray) -> Layout:
    height, width = labels.shape
    first, second, third = (STUFF[i] for i in rng.permutation(len(STUFF))[:3])
    labels[:] = CLASS_INDEX[first]
    if rng.random() < 0.5:
        blobs = smooth_noise(rng, 3, 4, 1, (height, width))
        labels[blobs > rng.uniform(-0.3, 0.4)] = CLASS_INDEX[second]
    else:
        line = rng.uniform(0.3, 0.7) * width + _slope(rng, height, 0.4).T
        labels[np.arange(width)[None, :] > line] = CLASS_INDEX[second]
    if rng.random() < 0.35:
        labels[smooth_noise(rng, 3, 3, 1, (height, width)) > 0.6] = CLASS_INDEX[third]
    return Layout("patchwork", 0.0, first)


def _single(rng, labels: np.ndarray) -> Layout:
    name = choose(rng, STUFF)
    labels[:] = CLASS_INDEX[name]
    return Layout("single", 0.0, name)


def lay_ground(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, Layout]:
    """Stuff labels (H,W) uint8 of a new picture and how they are laid out."""
    labels = np.empty((height, width), np.uint8)
    kind = rng.random()
    if kind < 0.44:
        return labels, _outdoor(rng, labels)
    if kind < 0.72:
        return labels, _indoor(rng, labels)
    if kind < 0.86:
        return labels, _patchwork(rng, labels)
    return labels, _single(rng, labels)


def _pick(rng, layout: Layout, earlier: list[str]) -> str:
    if earlier and rng.random() < 0.18:
        return earlier[-1]
    home = _AT_HOME.get(layout.ground)
    if home is not None and rng.random() < 0.33:
        return choose(rng, home)
    if layout.kind == "indoor" and rng.random() < 0.1:
        return "rug"
    return THINGS[int(rng.choice(len(THINGS), p=_WEIGHTS))]


def _place(
    rng, layout: Layout, name: str, share: float, height: int, width: int, central: bool
) -> Placement:
    """Scale and place one thing; `share` is the share of the frame that its box covers."""
    figure = MAKERS[name](rng)
    left, top, right, bottom = figure.bounds
    stretch = float(rng.uniform(0.9, 1.12))
    tall, wide = (bottom - top) / stretch, (right - left) * stretch
    scale = (share * height * width / (tall * wide)) ** 0.5
    scale = min(scale, 1.25 * height / tall, 1.2 * width / wide)
    turn = float(rng.normal(0, figure.tilt))
    half = tall * scale / 2
    if central:
        x, y = rng.uniform(0.4, 0.6) * width, rng.uniform(0.44, 0.56) * height
    else:
        x = rng.uniform(0.08, 0.92) * width
        anywhere = figure.airborne or layout.horizon == 0 or rng.random() < 0.15
        if anywhere:
            y = rng.uniform(0.12, 0.88) * height
        else:
            foot = layout.horizon + (height - layout.horizon) * rng.uniform(0.08, 1.0)
            lying = name == "rug"
            y = max(foot, layout.horizon + half) if lying else max(foot - half, half * 0.75)
    return Placement(
        name, figure, float(x), float(y), float(scale), turn, bool(rng.random() < 0.5), stretch
    )


def place_things(
    rng: np.random.Generator, layout: Layout, height: int, width: int
) -> list[Placement]:
    """The things of a picture from back to front: none, one that fills much of it, or several."""
    look = rng.random()
    if look < 0.05:
        return []
    if look < 0.4:
        name = "person" if rng.random() < _LARGE_PERSONS else _pick(rng, layout, [])
        share = float(np.exp(rng.uniform(np.log(0.2), np.log(1.25))))
        placed = [_place(rng, layout, name, share, height, width, central=True)]
        extra = int(rng.choice(3, p=(0.6, 0.25, 0.15)))
    else:
        placed, extra = (
            [],
            int(rng.choice((1, 2, 3, 4, 5, 6), p=(0.14, 0.24, 0.26, 0.18, 0.12, 0.06))),
        )
    names: list[str] = []
    for _ in range(extra):
        name = _pick(rng, layout, names)
        names.append(name)
        low, high = _SHARES[name]
        share = float(np.exp(rng.uniform(np.log(low), np.log(high))))
        placed.append(_place(rng, layout, name, share, height, width, central=False))
    rugs = [p for p in placed if p.name == "rug"]
    things = [p for p in placed if p.name != "rug"]
    reach = {id(p): p.y + p.scale * (p.figure.bounds[3] - p.figure.bounds[1]) / 2 for p in things}
    return rugs + sorted(things, key=lambda p: reach[id(p)])
