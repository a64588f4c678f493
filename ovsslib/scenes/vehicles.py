"""Cars, buses, bicycles and boats, each in two or more looks."""

from itertools import pairwise
from math import cos, sin

import numpy as np

from ovsslib.scenes.canvas import (
    Colour,
    Figure,
    Piece,
    bar,
    box,
    choose,
    ellipse,
    limb,
    paint,
    ring,
    rounded,
    shade,
)

_TYRE = (27, 27, 30)
_GLASS = ((150, 195, 220), (72, 92, 108), (190, 214, 224))


def _wheel(x: float, y: float, radius: float) -> list[Piece]:
    return [
        Piece(ellipse(x, y, radius), _TYRE),
        Piece(ellipse(x, y, radius * 0.55), (160, 160, 166)),
        Piece(ellipse(x, y, radius * 0.2, count=8), (90, 90, 94)),
    ]


def _front(colour: Colour, glass: Colour, tall: float) -> list[Piece]:
    """A car or a bus seen from ahead; `tall` is the height of its cabin."""
    return [
        Piece(rounded(-0.5, 0.3, -0.28, 0.62, 0.06), _TYRE),
        Piece(rounded(0.28, 0.3, 0.5, 0.62, 0.06), _TYRE),
        Piece([(-0.44, -0.02), (-0.36, -tall), (0.36, -tall), (0.44, -0.02)], shade(colour, 0.92)),
        Piece([(-0.37, -0.04), (-0.31, 0.07 - tall), (0.31, 0.07 - tall), (0.37, -0.04)], glass),
        Piece(rounded(-0.56, -0.04, 0.56, 0.48, 0.1), colour),
        Piece(box(-0.24, 0.14, 0.24, 0.28), (40, 40, 44)),
        Piece(ellipse(-0.4, 0.16, 0.1), (252, 244, 190)),
        Piece(ellipse(0.4, 0.16, 0.1), (252, 244, 190)),
        Piece(box(-0.56, 0.36, 0.56, 0.44), (150, 150, 154)),
    ]


def car(rng: np.random.Generator) -> Figure:
    """A car: saloon or estate from the side, or from ahead."""
    word, colour = paint(rng)
    glass = choose(rng, _GLASS)
    look = rng.random()
    if look < 0.2:
        return Figure(_front(colour, glass, 0.46), word, grain=0.02)
    saloon = look < 0.65
    top = -0.46 if saloon else -0.56
    front, back = ((0.24, 0.58), (-0.36, -0.66)) if saloon else ((0.3, 0.62), (-0.84, -0.92))
    roof = [(back[1], -0.03), (back[0], top), (front[0], top), (front[1], -0.03)]
    body = [(-0.98, 0.0), (-0.9, -0.1), (0.62, -0.1), (0.95, 0.02), (1.0, 0.12), (0.98, 0.32),
            (-0.98, 0.32)]  # fmt: skip
    pieces = [Piece(roof, colour), Piece(body, colour)]
    start, middle, end = back[0] - 0.05, (back[0] + front[0]) / 2, front[1] - 0.1
    pieces += [
        Piece([(start, -0.09), (back[0] + 0.06, top + 0.08), (middle - 0.03, top + 0.08),
               (middle - 0.03, -0.09)], glass),
        Piece([(middle + 0.04, -0.09), (middle + 0.04, top + 0.08), (front[0] - 0.03, top + 0.08),
               (end, -0.09)], glass),
        Piece(box(middle - 0.01, -0.08, middle + 0.02, 0.28), shade(colour, 0.6)),
        Piece(limb((middle + 0.1, 0.02), (middle + 0.2, 0.02), 0.02), shade(colour, 0.5)),
        Piece(box(0.88, 0.04, 0.99, 0.14), (252, 242, 170)),
        Piece(box(-0.98, 0.02, -0.9, 0.14), (206, 24, 24)),
        Piece(box(-0.98, 0.26, 0.98, 0.33), shade(colour, 0.5)),
    ]  # fmt: skip
    pieces += _wheel(-0.56, 0.32, 0.21) + _wheel(0.58, 0.32, 0.21)
    return Figure(pieces, word, grain=0.02)


def bus(rng: np.random.Generator) -> Figure:
    """A bus with a row of windows: one deck or two, or from ahead."""
    word, colour = paint(rng, ("red", "orange", "yellow", "green", "blue", "white", "purple"))
    glass = choose(rng, _GLASS)
    look = rng.random()
    if look < 0.15:
        pieces = _front(colour, glass, 0.95)
        pieces.append(Piece(box(-0.28, -0.94, 0.28, -0.8), (30, 30, 30)))
        pieces.append(Piece(box(-0.22, -0.9, 0.22, -0.84), (250, 180, 60)))
        return Figure(pieces, word, grain=0.02)
    roof = -0.55
    pieces = [Piece(rounded(-1.1, roof, 1.1, 0.44, 0.09), colour)]
    count = int(rng.integers(4, 6))
    xs = np.linspace(-1.0, 0.62, count + 1).tolist()
    rows = [(-0.42, -0.04)]
    if look < 0.45:
        pieces.insert(0, Piece(rounded(-1.1, -1.12, 1.08, -0.4, 0.09), colour))
        rows.append((-1.0, -0.68))
    for y0, y1 in rows:
        pieces += [Piece(box(a, y0, b - 0.08, y1), glass) for a, b in pairwise(xs)]
        pieces.append(Piece(box(0.94, y0, 1.09, y1 + 0.06), glass))
    pieces += [
        Piece(box(0.64, -0.42, 0.86, 0.4), shade(glass, 0.8)),
        Piece(box(0.74, -0.42, 0.76, 0.4), shade(colour, 0.6)),
        Piece(box(1.0, 0.2, 1.1, 0.3), (252, 242, 170)),
    ]
    if rng.random() < 0.55:
        stripe = (240, 240, 240) if word != "white" else (50, 80, 180)
        pieces.append(Piece(box(-1.1, 0.1, 0.6, 0.2), stripe))
    pieces += _wheel(-0.66, 0.44, 0.19) + _wheel(0.42, 0.44, 0.19)
    return Figure(pieces, word, grain=0.02)


def bicycle(rng: np.random.Generator) -> Figure:
    """A bicycle: diamond frame, or a low frame with a basket.

    The gaps of its wheels belong to its mask, as people draw them.
    """
    word, colour = paint(rng)
    radius, y = 0.42, 0.28
    rear, front, pedals = (-0.58, y), (0.6, y), (-0.06, y + 0.04)
    saddle, head = (-0.26, -0.3), (0.42, -0.34)
    pieces = []
    for x, _ in (rear, front):
        pieces += [
            Piece(ellipse(x, y, radius), None),
            Piece(ring(x, y, radius, radius - 0.1), _TYRE),
        ]
        for turn in (0.4, 1.45, 2.5):
            spoke = (radius - 0.06) * cos(turn), (radius - 0.06) * sin(turn)
            pieces.append(
                Piece(
                    bar((x - spoke[0], y - spoke[1]), (x + spoke[0], y + spoke[1]), 0.014),
                    (172, 172, 178),
                )
            )
    if rng.random() < 0.6:
        tubes = [(rear, pedals), (rear, saddle), (saddle, pedals), (saddle, head), (pedals, head)]
    else:
        tubes = [(rear, pedals), (rear, saddle), (saddle, pedals), (pedals, (0.44, -0.16))]
        basket = [(0.48, -0.42), (0.86, -0.42), (0.8, -0.16), (0.54, -0.16)]
        pieces.append(Piece(basket, (150, 110, 66)))
    pieces += [Piece(limb(p, q, 0.055), colour) for p, q in [*tubes, (head, front)]]
    handle = (head[0] - 0.04, head[1] - 0.2)
    pieces += [
        Piece(limb(head, handle, 0.045), colour),
        Piece(
            limb((handle[0] - 0.14, handle[1] - 0.02), (handle[0] + 0.12, handle[1] + 0.02), 0.055),
            _TYRE,
        ),
        Piece(limb(saddle, (saddle[0] - 0.02, saddle[1] - 0.1), 0.04), colour),
        Piece(
            limb((saddle[0] - 0.16, saddle[1] - 0.12), (saddle[0] + 0.14, saddle[1] - 0.12), 0.065),
            _TYRE,
        ),
        Piece(ellipse(*pedals, 0.1, count=10), (80, 80, 84)),
    ]
    return Figure(pieces, word, grain=0.02)


def boat(rng: np.random.Generator) -> Figure:
    """A boat: with sails, with a cabin and a funnel, or a rowing boat."""
    word, colour = paint(rng)
    look = rng.random()
    hull = [(-0.95, 0.28), (1.02, 0.24), (0.72, 0.68), (-0.68, 0.68)]
    pieces = []
    if look < 0.5:
        _, sail = paint(rng, ("white", "white", "red", "yellow", "blue", "orange"))
        pieces += [
            Piece(bar((0, 0.3), (0, -1.0), 0.035), (94, 62, 42)),
            Piece([(0.06, -0.95), (0.34, -0.4), (0.8, 0.16), (0.06, 0.16)], sail),
            Piece([(-0.06, -0.75), (-0.06, 0.16), (-0.6, 0.16)], shade(sail, 0.86)),
        ]
    elif look < 0.85:
        white = (236, 236, 230)
        pieces += [
            Piece(box(-0.34, -0.52, -0.12, -0.1), shade(colour, 0.8)),
            Piece(box(-0.34, -0.44, -0.12, -0.34), white),
            Piece(rounded(-0.62, -0.14, 0.4, 0.32, 0.05), white),
        ]
        for x in (-0.5, -0.18, 0.12):
            pieces.append(Piece(box(x, -0.02, x + 0.18, 0.14), (72, 96, 122)))
    else:
        wood = (142, 96, 56)
        pieces += [Piece(limb((-0.2, 0.3), (-0.62, 0.86), 0.035), wood),
                   Piece(limb((0.2, 0.3), (0.62, 0.86), 0.035), wood)]  # fmt: skip
        hull = [(-0.98, 0.16), (-0.7, 0.26), (0.7, 0.26), (1.0, 0.14), (0.66, 0.62), (-0.62, 0.62)]
    pieces += [
        Piece(hull, colour),
        Piece(limb((-0.9, 0.31), (0.96, 0.28), 0.045), (242, 242, 236)),
        Piece([(-0.78, 0.55), (0.84, 0.52), (0.72, 0.68), (-0.68, 0.68)], shade(colour, 0.65)),
    ]
    return Figure(pieces, word, grain=0.03, tilt=0.06)
