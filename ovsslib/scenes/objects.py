"""Bottles, forks, cups, balls, umbrellas, chairs, benches and rugs, each in two or more looks."""

from math import cos, pi, sin

import numpy as np

from ovsslib.scenes.canvas import (
    Colour,
    Figure,
    Piece,
    bar,
    box,
    choose,
    ellipse,
    jitter,
    limb,
    paint,
    ring,
    rounded,
    shade,
)

_METAL = (196, 200, 206)
_WOOD = {
    "brown": (136, 88, 50),
    "orange": (196, 138, 78),
    "white": (232, 228, 220),
    "black": (48, 44, 42),
    "red": (170, 50, 44),
    "green": (62, 120, 70),
    "blue": (60, 96, 170),
}


def _wood(rng) -> tuple[str, Colour]:
    word = choose(rng, tuple(_WOOD))
    return word, jitter(rng, _WOOD[word], 8)


def _lit(colour: Colour, amount: float) -> Colour:
    """`colour` with `more` light in every channel."""
    red, green, blue = (min(255.0, c + amount) for c in colour)
    return red, green, blue


def bottle(rng: np.random.Generator) -> Figure:
    """A bottle: slender with a long neck, or round-shouldered with a screw cap and ribs."""
    word, colour = paint(rng, ("green", "brown", "blue", "white", "red", "black"))
    label = jitter(
        rng, choose(rng, ((242, 236, 216), (240, 206, 60), (206, 50, 50), (70, 110, 200)))
    )
    shine = _lit(colour, 60)
    if rng.random() < 0.55:
        outline = [
            (-0.1, -0.98),
            (0.1, -0.98),
            (0.1, -0.48),
            (0.29, -0.24),
            (0.29, 0.92),
            (0.24, 0.98),
            (-0.24, 0.98),
            (-0.29, 0.92),
            (-0.29, -0.24),
            (-0.1, -0.48),
        ]
        pieces = [
            Piece(outline, colour),
            Piece(box(-0.12, -1.0, 0.12, -0.84), shade(label, 0.8)),
            Piece(box(-0.29, 0.05, 0.29, 0.58), label),
            Piece(box(-0.29, 0.16, 0.29, 0.26), shade(colour, 0.8)),
            Piece(limb((-0.19, -0.14), (-0.19, 0.0), 0.035), shine),
        ]
    else:
        outline = [
            (-0.15, -0.8),
            (0.15, -0.8),
            (0.36, -0.52),
            (0.38, -0.1),
            (0.32, 0.1),
            (0.38, 0.3),
            (0.36, 0.9),
            (-0.36, 0.9),
            (-0.38, 0.3),
            (-0.32, 0.1),
            (-0.38, -0.1),
            (-0.36, -0.52),
        ]
        pieces = [
            Piece(outline, colour),
            Piece(
                box(-0.16, -0.98, 0.16, -0.78),
                choose(rng, ((230, 60, 50), (60, 90, 190), (240, 240, 240))),
            ),
            Piece(box(-0.37, -0.3, 0.37, 0.02), label),
            *(Piece(bar((-0.36, y), (0.36, y), 0.025), shine) for y in (0.4, 0.56, 0.72)),
        ]
    return Figure(pieces, word, grain=0.02, tilt=0.12 if rng.random() < 0.7 else 0.9)


def fork(rng: np.random.Generator) -> Figure:
    """A fork: all steel with four tines, or three tines on a coloured handle."""
    steel = jitter(rng, _METAL, 8)
    dark = shade(steel, 0.72)
    four = rng.random() < 0.5
    word, grip = (
        ("gray", steel)
        if four
        else paint(rng, ("red", "blue", "green", "yellow", "black", "brown"))
    )
    xs = (-0.33, -0.11, 0.11, 0.33) if four else (-0.3, 0.0, 0.3)
    pieces = [
        Piece(limb((0, 0.0), (0, 0.9), 0.1, 0.19), grip),
        Piece(limb((0, -0.16), (0, 0.2), 0.1), dark),
        Piece(
            [(-0.4, -0.5), (0.4, -0.5), (0.4, -0.32), (0.18, -0.08), (-0.18, -0.08), (-0.4, -0.32)],
            steel,
        ),
        *(Piece(limb((x, -0.94), (x, -0.42), 0.06, 0.075), steel) for x in xs),
        Piece(limb((-0.02, 0.4), (-0.02, 0.86), 0.03), shade(grip, 1.3 if four else 0.7)),
    ]
    return Figure(pieces, word, grain=0.01, tilt=0.7)


def cup(rng: np.random.Generator) -> Figure:
    """A cup: a mug with a handle, a tea cup on a saucer, or a tall beaker with a straw."""
    word, colour = paint(rng)
    look = rng.random()
    drink = choose(rng, ((92, 56, 34), (150, 84, 36), (190, 60, 40)))
    if look < 0.45:
        pieces = [
            Piece(ring(0.52, 0.1, 0.36, 0.2), shade(colour, 0.85)),
            Piece(rounded(-0.55, -0.6, 0.55, 0.72, 0.12), colour),
            Piece(ellipse(0, -0.58, 0.55, 0.14), shade(colour, 1.2)),
            Piece(ellipse(0, -0.56, 0.46, 0.1), drink),
        ]
        if rng.random() < 0.6:
            _, mark = paint(rng, ("white", "red", "yellow", "black"))
            pieces.append(Piece(box(-0.55, -0.06, 0.55, 0.22), mark))
    elif look < 0.72:
        pieces = [
            Piece(ellipse(0, 0.58, 0.95, 0.16), shade(colour, 0.8)),
            Piece(ring(0.66, 0.0, 0.28, 0.15), shade(colour, 0.85)),
            Piece(
                [
                    (-0.66, -0.36),
                    (0.66, -0.36),
                    (0.56, 0.2),
                    (0.3, 0.54),
                    (-0.3, 0.54),
                    (-0.56, 0.2),
                ],
                colour,
            ),
            Piece(ellipse(0, -0.36, 0.66, 0.15), shade(colour, 1.2)),
            Piece(ellipse(0, -0.34, 0.56, 0.1), drink),
        ]
    else:
        pieces = [
            Piece(
                bar((0.06, -0.3), (0.34, -1.08), 0.05),
                choose(rng, ((230, 50, 60), (245, 245, 245))),
            ),
            Piece([(-0.5, -0.62), (0.5, -0.62), (0.34, 0.86), (-0.34, 0.86)], colour),
            Piece([(-0.46, -0.1), (0.46, -0.1), (0.42, 0.26), (-0.42, 0.26)], (242, 240, 232)),
            Piece(limb((-0.48, -0.64), (0.48, -0.64), 0.08), (244, 244, 244)),
        ]
    return Figure(pieces, word, grain=0.02, tilt=0.06)


def ball(rng: np.random.Generator) -> Figure:
    """A ball: plain, with a band, with football spots, with beach-ball wedges, or a basketball."""
    word, colour = paint(rng)
    look = rng.random()
    mark = (242, 242, 240) if word not in ("white", "gray") else (44, 44, 46)
    if look >= 0.8:
        word, colour, mark = "orange", jitter(rng, (222, 116, 44), 8), (50, 36, 30)
    pieces = [Piece(ellipse(0, 0, 0.8, count=28), colour)]
    start = rng.uniform(0, pi)
    if look < 0.2:
        pieces.append(Piece(ellipse(0, 0, 0.8, 0.2, start, 24), mark))
    elif look < 0.5:
        spots = [(cos(start + k * 1.257) * 0.52, sin(start + k * 1.257) * 0.52) for k in range(5)]
        pieces += [Piece(ellipse(x, y, 0.19, count=5), mark) for x, y in [*spots, (0.0, 0.0)]]
    elif look < 0.72:
        rim = ellipse(0, 0, 0.8, count=24)
        _, second = paint(rng, ("red", "blue", "yellow", "green"))
        for k in range(3):
            wedge = [(0.0, 0.0), *(rim[(8 * k + i) % 24] for i in range(5))]
            pieces.append(Piece(wedge, mark if k % 2 == 0 else second))
        pieces.append(Piece(ellipse(0, 0, 0.12), mark))
    elif look >= 0.8:
        pieces += [
            Piece(
                bar(
                    (cos(start) * 0.8, sin(start) * 0.8),
                    (-cos(start) * 0.8, -sin(start) * 0.8),
                    0.03,
                ),
                mark,
            ),
            Piece(
                bar(
                    (-sin(start) * 0.8, cos(start) * 0.8),
                    (sin(start) * 0.8, -cos(start) * 0.8),
                    0.03,
                ),
                mark,
            ),
            Piece(ring(0, 0, 0.48, 0.42), mark),
        ]
    pieces.append(Piece(ellipse(-0.3, -0.36, 0.15, 0.1, -0.7), _lit(colour, 80)))
    return Figure(pieces, word, grain=0.03, tilt=0.1, airborne=rng.random() < 0.3)


def umbrella(rng: np.random.Generator) -> Figure:
    """An umbrella: open from the side with a hooked handle, or its canopy from above."""
    word, colour = paint(
        rng, ("red", "orange", "yellow", "green", "blue", "purple", "pink", "black")
    )
    second = shade(colour, 0.72) if rng.random() < 0.55 else (240, 240, 235)
    if rng.random() < 0.25:
        rim = ellipse(0, 0, 0.95, count=8)
        pieces = [
            Piece([(0.0, 0.0), rim[k], rim[(k + 1) % 8]], colour if k % 2 else second)
            for k in range(8)
        ]
        pieces += [Piece(bar((0, 0), rim[k], 0.014), (56, 50, 48)) for k in range(8)]
        pieces.append(Piece(ellipse(0, 0, 0.06), (56, 50, 48)))
        return Figure(pieces, word, grain=0.03, tilt=0.6, airborne=True)
    pole = (62, 52, 46)
    pieces = [
        Piece(bar((0, -0.5), (0, 0.85), 0.045), pole),
        Piece(limb((0, 0.85), (0.15, 0.96), 0.05), pole),
        Piece(limb((0.15, 0.96), (0.26, 0.8), 0.05), pole),
        Piece(bar((0, -0.72), (0, -0.92), 0.03), pole),
    ]
    arc = [(-cos(pi * k / 16) * 1.0, -sin(pi * k / 16) * 0.78) for k in range(17)]
    for gore in range(4):
        part = arc[gore * 4 : gore * 4 + 5]
        scallop = ((part[0][0] + part[-1][0]) / 2, -0.1)
        left, right = (part[0][0], 0.02), (part[-1][0], 0.02)
        pieces.append(Piece([left, *part, right, scallop], colour if gore % 2 else second))
    return Figure(pieces, word, grain=0.03, tilt=0.25, airborne=rng.random() < 0.4)


def chair(rng: np.random.Generator) -> Figure:
    """A chair: from the side, from ahead with a slatted back, or an armchair."""
    word, colour = _wood(rng)
    dark = shade(colour, 0.72)
    look = rng.random()
    if look < 0.4:
        pieces = [
            Piece(bar((0.34, 0.1), (0.4, 0.95), 0.07), dark),
            Piece(bar((-0.28, 0.1), (-0.34, 0.95), 0.07), dark),
            Piece(bar((-0.36, -0.98), (-0.28, 0.12), 0.09), colour),
            Piece(bar((-0.3, 0.5), (0.36, 0.5), 0.04), dark),
            Piece(rounded(-0.42, 0.0, 0.5, 0.2, 0.06), colour),
        ]
        if rng.random() < 0.5:
            pieces.append(Piece(rounded(-0.22, -0.1, 0.48, 0.03, 0.05), paint(rng)[1]))
    elif look < 0.75:
        pieces = [Piece(bar((x, -0.95), (x, 0.15), 0.08), colour) for x in (-0.4, 0.4)]
        pieces += [Piece(bar((-0.4, y), (0.4, y), 0.09), colour) for y in (-0.82, -0.52, -0.22)]
        pieces += [
            Piece(bar((-0.3, 0.2), (-0.3, 0.8), 0.05), shade(colour, 0.55)),
            Piece(bar((0.3, 0.2), (0.3, 0.8), 0.05), shade(colour, 0.55)),
            Piece(bar((-0.46, 0.2), (-0.48, 0.97), 0.08), dark),
            Piece(bar((0.46, 0.2), (0.48, 0.97), 0.08), dark),
            Piece([(-0.4, 0.02), (0.4, 0.02), (0.56, 0.24), (-0.56, 0.24)], shade(colour, 1.15)),
            Piece(box(-0.56, 0.24, 0.56, 0.34), dark),
        ]
    else:
        word, colour = paint(rng)
        dark = shade(colour, 0.72)
        pieces = [
            Piece(box(-0.6, 0.7, -0.48, 0.92), (66, 46, 32)),
            Piece(box(0.48, 0.7, 0.6, 0.92), (66, 46, 32)),
            Piece(rounded(-0.56, -0.85, 0.56, 0.4, 0.2), colour),
            Piece(rounded(-0.5, 0.06, 0.5, 0.42, 0.1), shade(colour, 1.18)),
            Piece(box(-0.56, 0.36, 0.56, 0.74), dark),
            Piece(rounded(-0.78, -0.14, -0.46, 0.76, 0.13), shade(colour, 0.86)),
            Piece(rounded(0.46, -0.14, 0.78, 0.76, 0.13), shade(colour, 0.86)),
        ]
    return Figure(pieces, word, grain=0.03, tilt=0.03)


def bench(rng: np.random.Generator) -> Figure:
    """A long bench: slatted with a back, or a plank on two stone feet."""
    word, colour = _wood(rng)
    iron = choose(rng, ((46, 46, 50), (70, 84, 70), (120, 120, 124)))
    if rng.random() < 0.65:
        pieces = [Piece(bar((x, -0.5), (x, 0.1), 0.06), iron) for x in (-0.95, 0.0, 0.95)]
        pieces += [Piece(box(-1.15, y, 1.15, y + 0.15), colour) for y in (-0.58, -0.37, -0.16)]
        pieces += [Piece(limb((x, 0.1), (x + d, 0.55), 0.07), iron)
                   for x, d in ((-0.95, -0.08), (0.95, 0.08))]  # fmt: skip
        pieces += [
            Piece([(-1.12, 0.02), (1.12, 0.02), (1.24, 0.2), (-1.24, 0.2)], shade(colour, 1.12)),
            Piece(box(-1.24, 0.2, 1.24, 0.28), shade(colour, 0.6)),
            Piece(bar((-1.18, 0.11), (1.18, 0.11), 0.014), shade(colour, 0.5)),
        ]
    else:
        stone = jitter(rng, (168, 164, 156), 10)
        pieces = [
            Piece([(-0.92, -0.05), (-0.58, -0.05), (-0.52, 0.5), (-0.98, 0.5)], stone),
            Piece([(0.58, -0.05), (0.92, -0.05), (0.98, 0.5), (0.52, 0.5)], stone),
            Piece(
                [(-1.1, -0.24), (1.1, -0.24), (1.22, -0.06), (-1.22, -0.06)], shade(colour, 1.12)
            ),
            Piece(box(-1.22, -0.06, 1.22, 0.08), shade(colour, 0.7)),
        ]
    return Figure(pieces, word, grain=0.03, tilt=0.02)


def rug(rng: np.random.Generator) -> Figure:
    """A rug lying in perspective: striped with fringes, bordered, or oval with rings."""
    word, colour = paint(
        rng, ("red", "blue", "green", "purple", "orange", "pink", "yellow", "brown")
    )
    _, second = paint(rng, ("white", "yellow", "red", "blue", "black", "orange"))
    look = rng.random()
    depth = rng.uniform(0.34, 0.55)
    if look < 0.35:
        tones = (colour, second, colour, shade(colour, 0.65), colour)
        pieces = [Piece(ellipse(0, 0, 1.15 * s, depth * s, count=26), tone)
                  for s, tone in zip((1.0, 0.84, 0.7, 0.45, 0.3), tones, strict=True)]  # fmt: skip
        return Figure(pieces, word, grain=0.07, tilt=0.02)
    inset = rng.uniform(0.1, 0.3)

    def across(u: float, v: float) -> tuple[float, float]:
        return u * (1.2 - inset * (1 - v) / 2), v * depth

    def quad(u0: float, v0: float, u1: float, v1: float) -> list[tuple[float, float]]:
        return [across(u0, v0), across(u1, v0), across(u1, v1), across(u0, v1)]

    pieces = []
    for k in range(9):
        v = -0.94 + k * 0.235
        pieces += [
            Piece(bar(across(s, v), across(s * 1.08, v), 0.02), (238, 230, 206)) for s in (-1, 1)
        ]
    pieces.append(Piece(quad(-1, -1, 1, 1), colour))
    if look < 0.68:
        for u in (-0.78, -0.38, 0.22, 0.62):
            pieces.append(Piece(quad(u, -1, u + 0.16, 1), second))
    else:
        pieces += [
            Piece(quad(-0.86, -0.78, 0.86, 0.78), second),
            Piece(quad(-0.76, -0.62, 0.76, 0.62), shade(colour, 0.78)),
            Piece([across(-0.42, 0), across(0, -0.5), across(0.42, 0), across(0, 0.5)], second),
            Piece([across(-0.2, 0), across(0, -0.24), across(0.2, 0), across(0, 0.24)], colour),
        ]
    return Figure(pieces, word, grain=0.07, tilt=0.02)
