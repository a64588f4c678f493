"""Trees and houses, each in two or more looks."""

from math import cos, sin

import numpy as np

from ovsslib.scenes.canvas import (
    Figure,
    Piece,
    bar,
    box,
    choose,
    ellipse,
    jitter,
    limb,
    paint,
    shade,
)


def tree(rng: np.random.Generator) -> Figure:
    """A tree with a brown trunk: round and leafy, a conifer, or a palm."""
    trunk = jitter(rng, (98, 66, 42), 8)
    word, base = choose(
        rng,
        (
            ("green", (52, 116, 42)),
            ("green", (38, 90, 46)),
            ("green", (96, 136, 44)),
            ("orange", (204, 122, 40)),
        ),
    )
    leaf = jitter(rng, base, 9)
    look = rng.random()
    if look < 0.55:
        pieces = [
            Piece(limb((0, 0.98), (0, 0.0), 0.14, 0.09), trunk),
            Piece(limb((0, 0.35), (0.3, -0.1), 0.06), trunk),
        ]
        for k in range(9):
            angle, away = k * 2.4 + rng.uniform(-0.4, 0.4), 0.42 * (k / 8) ** 0.5
            blob = ellipse(
                cos(angle) * away * 1.15,
                -0.4 + sin(angle) * away,
                rng.uniform(0.26, 0.36),
                count=12,
            )
            pieces.append(Piece(blob, shade(leaf, rng.uniform(0.75, 1.2))))
    elif look < 0.85:
        pieces = [Piece(bar((0, 0.98), (0, 0.4), 0.1), trunk)]
        for y, width, tone in (
            (0.62, 0.62, 0.75),
            (0.22, 0.52, 0.88),
            (-0.16, 0.42, 1.0),
            (-0.48, 0.3, 1.12),
        ):
            layer = [
                (-width, y),
                (-width * 0.4, y - 0.28),
                (0, y - 0.56),
                (width * 0.4, y - 0.28),
                (width, y),
                (width * 0.4, y + 0.06),
                (0, y),
                (-width * 0.4, y + 0.06),
            ]
            pieces.append(Piece(layer, shade(leaf, tone)))
    else:
        word, leaf = "green", jitter(rng, (62, 136, 56), 8)
        pieces = [Piece(limb((0, 0.98), (0.06, 0.3), 0.12, 0.1), trunk),
                  Piece(limb((0.06, 0.3), (0, -0.4), 0.1, 0.08), trunk)]  # fmt: skip
        for angle in (-2.9, -2.3, -1.6, -0.8, -0.2, 0.4, 2.8):
            tip = (cos(angle) * 0.72, -0.42 + sin(angle) * 0.46 + 0.14)
            middle = (cos(angle) * 0.4, -0.52 + sin(angle) * 0.4)
            frond = [(0, -0.46), middle, tip, (middle[0] * 0.9, middle[1] + 0.2)]
            pieces.append(Piece(frond, shade(leaf, rng.uniform(0.75, 1.15))))
    return Figure(pieces, word, grain=0.16, tilt=0.04)


def _window(x: float, y: float, width: float, height: float) -> list[Piece]:
    return [
        Piece(box(x, y, x + width, y + height), (242, 242, 236)),
        Piece(box(x + 0.03, y + 0.03, x + width - 0.03, y + height - 0.03), (112, 152, 182)),
        Piece(bar((x + width / 2, y), (x + width / 2, y + height), 0.014), (242, 242, 236)),
    ]


def house(rng: np.random.Generator) -> Figure:
    """A house: a cottage under a gable, or two storeys under a hipped roof."""
    word, wall = paint(
        rng, ("white", "yellow", "red", "blue", "pink", "brown", "gray", "orange", "green")
    )
    roof = jitter(rng, choose(rng, ((152, 62, 46), (82, 76, 76), (112, 72, 46), (62, 82, 112))), 8)
    door = choose(rng, ((98, 62, 36), (60, 96, 70), (150, 40, 40), (50, 70, 120)))
    pieces = []
    if rng.random() < 0.6:
        pieces.append(Piece(box(0.36, -0.8, 0.54, -0.3), shade(roof, 0.75)))
    if rng.random() < 0.55:
        pieces += [
            Piece(box(-0.78, -0.16, 0.78, 0.82), wall),
            Piece([(-0.98, -0.1), (0.0, -0.9), (0.98, -0.1)], roof),
            Piece(ellipse(0, -0.38, 0.13), (242, 242, 236)),
            Piece(ellipse(0, -0.38, 0.09), (112, 152, 182)),
        ]
        windows = [(-0.64, 0.08), (0.34, 0.08)]
    else:
        pieces += [
            Piece(box(-0.72, -0.5, 0.72, 0.82), wall),
            Piece([(-0.9, -0.46), (-0.56, -0.92), (0.56, -0.92), (0.9, -0.46)], roof),
            Piece(box(-0.72, 0.12, 0.72, 0.17), shade(wall, 0.7)),
        ]
        windows = [(-0.58, -0.34), (-0.15, -0.34), (0.28, -0.34), (-0.58, 0.28), (0.3, 0.28)]
    for x, y in windows:
        pieces += _window(x, y, 0.3, 0.34)
    x = rng.uniform(-0.2, -0.1)
    pieces += [
        Piece(box(x, 0.34, x + 0.3, 0.82), door),
        Piece(ellipse(x + 0.24, 0.6, 0.025, count=8), (230, 200, 90)),
        Piece(box(-0.8, 0.78, 0.8, 0.84), shade(wall, 0.6)),
    ]
    return Figure(pieces, word, grain=0.03, tilt=0.02)
