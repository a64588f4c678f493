"""Dogs, cats, horses, cows and birds, each in two or more looks."""

from itertools import pairwise
from math import cos, sin

import numpy as np

from ovsslib.scenes.canvas import (
    Colour,
    Figure,
    Piece,
    choose,
    ellipse,
    jitter,
    limb,
    paint,
    polar,
    rounded,
    shade,
)

_FUR = {"brown": (128, 82, 46), "black": (38, 35, 33), "white": (236, 231, 224),
        "gray": (132, 130, 130), "orange": (218, 144, 66)}  # fmt: skip
_EYE = (16, 15, 15)


def _fur(rng, words: tuple[str, ...] = tuple(_FUR)) -> tuple[str, Colour]:
    word = choose(rng, words)
    return word, jitter(rng, _FUR[word], 8)


def _four_legs(rng, colour: Colour, spread: float, y: float, length: float, width: float,
               hoof: Colour | None = None) -> list[Piece]:  # fmt: skip
    """Four legs of a standing or walking animal; the far pair is darker."""
    pieces = []
    stride = rng.uniform(0.02, 0.45)
    for x, far in ((-spread, True), (spread * 0.85, True), (-spread * 0.8, False), (spread, False)):
        angle = rng.uniform(-stride, stride)
        foot = polar(x, y, angle, length)
        pieces.append(
            Piece(limb((x, y), foot, width, width * 0.72), shade(colour, 0.72 if far else 0.93))
        )
        if hoof is not None:
            pieces.append(Piece(ellipse(*foot, width * 0.85, width * 0.6), hoof))
    return pieces


def _trail(points, width: float, colour: Colour) -> list[Piece]:
    """A bent tail through the given points."""
    return [Piece(limb(p, q, width), colour) for p, q in pairwise(points)]


def _dog_head(rng, x: float, y: float, colour: Colour) -> list[Piece]:
    ear = shade(colour, 0.55) if sum(colour) > 150 else (92, 84, 78)
    muzzle = shade(colour, 0.9) if rng.random() < 0.6 else jitter(rng, (214, 190, 160), 8)
    pieces = [
        Piece(ellipse(x, y, 0.24, 0.22), colour),
        Piece(limb((x + 0.1, y + 0.06), (x + 0.34, y + 0.1), 0.13, 0.1), muzzle),
        Piece(ellipse(x + 0.42, y + 0.05, 0.06, 0.05), _EYE),
        Piece(limb((x - 0.13, y - 0.12), (x - 0.19, y + 0.18), 0.09, 0.11), ear),
        Piece(ellipse(x + 0.09, y - 0.06, 0.04), _EYE),
    ]
    if rng.random() < 0.4:
        tongue = limb((x + 0.26, y + 0.2), (x + 0.27, y + 0.3), 0.05)
        pieces.append(Piece(tongue, (226, 96, 110)))
    return pieces


def dog(rng: np.random.Generator) -> Figure:
    """A dog with hanging ears and a long snout: standing, or sitting upright."""
    word, colour = _fur(rng)
    if rng.random() < 0.6:
        pieces = _four_legs(rng, colour, 0.42, 0.2, 0.46, 0.1)
        wag = rng.uniform(-0.1, 0.25)
        pieces += _trail([(-0.5, 0.0), (-0.68, -0.2), (-0.74 + wag, -0.46)], 0.06, colour)
        pieces += [Piece(limb((-0.4, 0.1), (0.36, 0.06), 0.24, 0.25), colour)]
        if rng.random() < 0.4:
            pieces.append(
                Piece(ellipse(rng.uniform(-0.35, 0.1), 0.04, 0.18, 0.13), (238, 233, 226))
            )
        pieces.append(Piece(limb((0.4, 0.0), (0.56, -0.24), 0.18, 0.15), colour))
        neck, head = ((0.36, -0.14), (0.6, -0.06)), (0.6, -0.34)
    else:
        pieces = _trail([(-0.4, 0.62), (-0.7, 0.56), (-0.82, 0.36)], 0.07, colour)
        pieces += [
            Piece(limb((-0.18, 0.45), (0.12, -0.2), 0.36, 0.22), colour),
            Piece(ellipse(-0.2, 0.5, 0.34, 0.26), shade(colour, 0.88)),
            Piece(limb((0.16, 0.1), (0.2, 0.68), 0.12, 0.09), shade(colour, 0.95)),
            Piece(limb((-0.1, 0.7), (0.16, 0.72), 0.08), shade(colour, 0.8)),
        ]
        if rng.random() < 0.4:
            pieces.append(Piece(ellipse(0.2, 0.1, 0.12, 0.24), (238, 233, 226)))
        neck, head = ((-0.08, -0.24), (0.34, -0.16)), (0.16, -0.5)
    pieces += _dog_head(rng, *head, colour)
    if rng.random() < 0.4:
        pieces.append(Piece(limb(*neck, 0.05), paint(rng, ("red", "blue", "green"))[1]))
    return Figure(pieces, word, grain=0.08)


def _cat_head(rng, x: float, y: float, colour: Colour) -> list[Piece]:
    eye = choose(rng, ((150, 192, 62), (226, 186, 60), (110, 180, 210)))
    pieces = []
    for side in (-1, 1):
        ear = [
            (x + side * 0.06, y - 0.16),
            (x + side * 0.27, y - 0.46),
            (x + side * 0.29, y - 0.02),
        ]
        inner = [
            (x + side * 0.12, y - 0.18),
            (x + side * 0.24, y - 0.36),
            (x + side * 0.25, y - 0.1),
        ]
        pieces += [Piece(ear, colour), Piece(inner, (226, 152, 152))]
    pieces.append(Piece(ellipse(x, y, 0.31, 0.25), colour))
    for side in (-1, 1):
        pieces += [
            Piece(ellipse(x + side * 0.12, y - 0.04, 0.065, 0.06), eye),
            Piece(ellipse(x + side * 0.12, y - 0.04, 0.022, 0.055, count=8), _EYE),
        ]
        whisker = (235, 235, 235) if sum(colour) < 480 else (90, 90, 90)
        for drop in (0.06, 0.12):
            whiskers = limb((x + side * 0.12, y + 0.1), (x + side * 0.4, y + drop), 0.011)
            pieces.append(Piece(whiskers, whisker))
    pieces.append(Piece(ellipse(x, y + 0.07, 0.045, 0.032, count=8), (222, 112, 120)))
    return pieces


def cat(rng: np.random.Generator) -> Figure:
    """A cat with pointed ears: sitting, walking with its tail up, or lying."""
    word, colour = _fur(rng)
    stripe = shade(colour, 0.6) if sum(colour) > 150 else (84, 80, 78)
    striped = rng.random() < 0.5
    look = rng.random()
    if look < 0.45:
        pieces = _trail(
            [(0.24, 0.66), (0.6, 0.58), (0.66, 0.24), (0.54, -0.02)], 0.075, shade(colour, 0.8)
        )
        pieces += [
            Piece(ellipse(0, 0.38, 0.38, 0.46), colour),
            Piece(limb((-0.12, 0.3), (-0.13, 0.76), 0.1), shade(colour, 1.08)),
            Piece(limb((0.12, 0.3), (0.13, 0.76), 0.1), shade(colour, 1.08)),
        ]
        marks = [((-0.36, y), (-0.2, y + 0.04)) for y in (0.2, 0.34, 0.48)]
        marks += [((0.36, y), (0.2, y + 0.04)) for y in (0.2, 0.34, 0.48)]
        head = (0.0, -0.2)
    elif look < 0.75:
        pieces = _four_legs(rng, colour, 0.38, 0.2, 0.42, 0.085)
        pieces += _trail(
            [(-0.44, 0.1), (-0.66, -0.06), (-0.7, -0.36), (-0.56, -0.56)], 0.065, colour
        )
        pieces.append(Piece(limb((-0.36, 0.1), (0.36, 0.08), 0.2), colour))
        marks = [((x, -0.06), (x + 0.02, 0.12)) for x in (-0.34, -0.18, -0.02, 0.14)]
        head = (0.52, -0.16)
    else:
        pieces = _trail([(-0.56, 0.3), (-0.8, 0.36), (-0.5, 0.44)], 0.075, shade(colour, 0.85))
        pieces += [
            Piece(limb((-0.42, 0.2), (0.34, 0.24), 0.28, 0.22), colour),
            Piece(limb((0.2, 0.42), (0.56, 0.42), 0.075), shade(colour, 1.08)),
        ]
        marks = [((x, -0.06), (x - 0.02, 0.16)) for x in (-0.44, -0.26, -0.08)]
        head = (0.5, 0.02)
    if striped:
        pieces += [Piece(limb(p, q, 0.03), stripe) for p, q in marks]
    pieces += _cat_head(rng, *head, colour)
    return Figure(pieces, word, grain=0.07)


def horse(rng: np.random.Generator) -> Figure:
    """A horse, long-legged with neck and mane: standing or galloping, or grazing."""
    word, colour = _fur(rng, ("brown", "brown", "black", "white", "gray", "orange"))
    mane = shade(colour, 0.45) if sum(colour) > 150 else (104, 92, 82)
    pieces = _four_legs(rng, colour, 0.48, 0.14, 0.74, 0.085, hoof=(40, 34, 30))
    pieces += [
        Piece(limb((-0.62, -0.08), (-0.82, 0.42), 0.08, 0.06), mane),
        Piece(limb((-0.42, 0.0), (0.4, 0.0), 0.25), colour),
    ]
    if rng.random() < 0.7:
        head, lift = (0.78, -0.62), 1
        muzzle = (1.08, -0.4)
    else:
        head, lift = (0.86, 0.3), -1
        muzzle = (1.02, 0.62)
    x, y = head
    shoulder = (0.48, -0.04)
    pieces += [
        Piece(limb(shoulder, head, 0.22, 0.13), colour),
        Piece(limb((0.36, -0.22), (x - 0.1, y - 0.08 * lift), 0.07, 0.06), mane),
        Piece(limb((x - 0.02, y), muzzle, 0.14, 0.09), colour),
        Piece([(x - 0.1, y - 0.06), (x - 0.04, y - 0.28), (x + 0.07, y - 0.08)], colour),
        Piece(ellipse(x + 0.06, y + 0.02, 0.028, count=8), _EYE),
        Piece(ellipse(*muzzle, 0.075), shade(colour, 0.7)),
    ]
    if rng.random() < 0.35:
        saddle = rounded(-0.22, -0.29, 0.14, 0.02, 0.08)
        pieces.append(Piece(saddle, paint(rng, ("red", "blue", "brown", "green"))[1]))
    return Figure(pieces, word, grain=0.05)


def cow(rng: np.random.Generator) -> Figure:
    """A cow, boxy and horned with a pink muzzle: spotted or plain, standing or grazing."""
    spotted = rng.random() < 0.65
    word, colour = _fur(rng, ("white",) if spotted else ("brown", "brown", "black", "white"))
    patch = jitter(rng, choose(rng, ((36, 34, 34), (36, 34, 34), (120, 70, 40))), 6)
    pieces = _four_legs(rng, colour, 0.5, 0.3, 0.42, 0.095, hoof=(52, 44, 40))
    pieces += _trail([(-0.66, -0.22), (-0.8, 0.1), (-0.78, 0.34)], 0.035, shade(colour, 0.8))
    pieces += [
        Piece(ellipse(-0.22, 0.4, 0.16, 0.1), (236, 168, 172)),
        Piece(rounded(-0.7, -0.36, 0.62, 0.38, 0.2), colour),
    ]
    if spotted:
        for x, y in ((-0.46, -0.14), (0.02, 0.1), (0.36, -0.16)):
            blot = ellipse(
                x + rng.normal(0, 0.05),
                y + rng.normal(0, 0.04),
                rng.uniform(0.14, 0.22),
                rng.uniform(0.1, 0.18),
                rng.uniform(0, 3),
                count=9,
            )
            pieces.append(Piece(blot, patch))
    x, y = (0.78, -0.34) if rng.random() < 0.65 else (0.84, 0.28)
    pieces.append(Piece(limb((0.5, -0.1), (x - 0.06, y), 0.24, 0.17), colour))
    ear = patch if spotted else shade(colour, 0.7)
    for side in (-1, 1):
        horn = limb((x + side * 0.12, y - 0.18), (x + side * 0.24, y - 0.38), 0.045, 0.025)
        pieces += [
            Piece(horn, (226, 212, 178)),
            Piece(ellipse(x + side * 0.27, y - 0.1, 0.12, 0.07, side * 0.3), ear),
        ]
    pieces += [
        Piece(
            limb((x, y - 0.06), (x, y + 0.18), 0.2, 0.16),
            patch if spotted and rng.random() < 0.4 else colour,
        ),
        Piece(ellipse(x, y + 0.26, 0.19, 0.13), (238, 172, 172)),
        Piece(ellipse(x - 0.07, y + 0.27, 0.025, count=8), (120, 62, 66)),
        Piece(ellipse(x + 0.07, y + 0.27, 0.025, count=8), (120, 62, 66)),
        Piece(ellipse(x - 0.1, y - 0.05, 0.035, count=8), _EYE),
        Piece(ellipse(x + 0.1, y - 0.05, 0.035, count=8), _EYE),
    ]
    return Figure(pieces, word, grain=0.05)


def bird(rng: np.random.Generator) -> Figure:
    """A bird with a bright beak: perched in profile, or flying with spread wings."""
    word, colour = paint(rng, ("red", "yellow", "blue", "black", "white", "gray", "brown", "green"))
    wing = shade(colour, 0.7) if sum(colour) > 150 else (84, 84, 92)
    beak = (242, 170, 32)
    if rng.random() < 0.5:
        lift = rng.uniform(-0.35, 0.15)
        tilt = rng.uniform(-0.3, 0.3)
        left = [
            (-0.06, -0.06),
            (-0.4, -0.5 + lift),
            (-1.0, -0.42 - lift),
            (-0.72, -0.12),
            (-0.12, 0.26),
        ]
        right = [
            (0.06, -0.06),
            (0.4, -0.5 + lift),
            (1.0, -0.42 - lift),
            (0.72, -0.12),
            (0.12, 0.26),
        ]
        pieces = [
            Piece([(-0.08, 0.3), (0.08, 0.3), (0.2, 0.68), (-0.2, 0.68)], wing),
            Piece(left, wing),
            Piece(right, shade(wing, 1.12)),
            Piece(ellipse(0, 0.1, 0.19, 0.36), colour),
            Piece(ellipse(0.02, -0.28, 0.17), colour),
            Piece([(0.12, -0.36), (0.4, -0.28), (0.12, -0.2)], beak),
            Piece(ellipse(0.07, -0.33, 0.035, count=8), _EYE),
        ]
        pieces = [
            piece._replace(
                points=[
                    (x * cos(tilt) - y * sin(tilt), x * sin(tilt) + y * cos(tilt))
                    for x, y in piece.points
                ]
            )
            for piece in pieces
        ]
        return Figure(pieces, word, grain=0.05, tilt=0.2, airborne=True)
    legs = (222, 142, 42)
    pieces = [
        Piece(limb((-0.06, 0.3), (-0.06, 0.66), 0.035), legs),
        Piece(limb((0.1, 0.3), (0.1, 0.66), 0.035), legs),
        Piece([(-0.3, -0.04), (-1.0, 0.3), (-0.92, 0.48), (-0.2, 0.28)], wing),
        Piece(ellipse(0, 0.06, 0.5, 0.34, -0.3), colour),
        Piece(ellipse(0.14, 0.14, 0.26, 0.22, -0.3), shade(colour, 1.25)),
        Piece(ellipse(-0.14, 0.06, 0.36, 0.17, 0.25), wing),
        Piece(ellipse(0.4, -0.34, 0.25), colour),
        Piece([(0.58, -0.46), (0.94, -0.3), (0.58, -0.2)], beak),
        Piece(ellipse(0.48, -0.4, 0.045, count=8), (250, 250, 250)),
        Piece(ellipse(0.49, -0.4, 0.03, count=8), _EYE),
    ]
    return Figure(pieces, word, grain=0.05)
