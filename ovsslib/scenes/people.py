"""Persons: articulated, with limbs thick enough to cover a patch, in several poses and clothes."""

import numpy as np

from ovsslib.scenes.canvas import (
    Colour,
    Figure,
    Piece,
    box,
    choose,
    ellipse,
    jitter,
    limb,
    paint,
    polar,
    shade,
)

HEAD, TORSO, ARMS, LEGS = 1, 2, 3, 4

_SKINS = ((245, 206, 176), (226, 176, 136), (172, 116, 76), (112, 72, 46))
_HAIR = ((32, 24, 19), (92, 56, 27), (216, 180, 102), (152, 152, 152), (150, 66, 30))
_POSES = ("stand", "stand", "walk", "walk", "run", "sit", "arms up", "arms up", "arms out", "skirt")
_HIP, _SHOULDER = 0.12, -0.46


def _legs(rng, pose: str, trousers: Colour, skin: Colour, shoe: Colour) -> list[Piece]:
    """Two legs of thigh, shin and shoe; angles are from straight down."""
    bare = rng.random() < 0.3
    pieces = []
    for side in (-1, 1):
        thigh = side * rng.uniform(0.03, 0.28)
        shin = thigh * rng.uniform(-0.2, 0.8)
        hip = (side * 0.15, _HIP)
        if pose in ("walk", "run"):
            swing = rng.uniform(0.3, 0.55) if pose == "walk" else rng.uniform(0.55, 0.95)
            hip, thigh = (side * 0.05, _HIP), side * swing
            shin = thigh + (rng.uniform(-0.5, -0.1) if side > 0 else -rng.uniform(0.1, 0.7))
        elif pose == "sit":
            thigh, shin = 1.35 + side * 0.1, rng.uniform(-0.2, 0.25)
            hip = (side * 0.06, _HIP - 0.02)
        knee = polar(*hip, thigh, 0.40)
        foot = polar(*knee, shin, 0.40)
        lower = skin if bare else trousers
        tone = 0.86 if side < 0 else 1.0
        pieces += [
            Piece(limb(knee, foot, 0.115, 0.095), shade(lower, tone), LEGS),
            Piece(limb(hip, knee, 0.155, 0.125), shade(trousers, tone), LEGS),
            Piece(ellipse(foot[0] + 0.05, foot[1] + 0.04, 0.16, 0.085), shoe, LEGS),
        ]
    return pieces


def _arms(rng, pose: str, sleeve: Colour, skin: Colour) -> list[list[Piece]]:
    """Two arms of upper arm, forearm and hand, each a list of pieces."""
    short = rng.random() < 0.5
    arms = []
    for side in (-1, 1):
        upper, bend = rng.uniform(0.25, 0.6), rng.uniform(-0.5, 0.2)
        if pose == "arms up" or (pose == "stand" and side > 0 and rng.random() < 0.25):
            upper, bend = rng.uniform(2.2, 2.8), rng.uniform(-0.5, 0.5)
        elif pose == "arms out":
            upper, bend = rng.uniform(1.2, 1.8), rng.uniform(-0.3, 0.9)
        elif pose in ("walk", "run"):
            upper, bend = rng.uniform(0.35, 0.8), rng.uniform(0.1, 0.9) * side
        elif pose == "stand" and rng.random() < 0.2:
            upper, bend = 0.8, -1.6  # hand on the hip
        shoulder = (side * 0.25, _SHOULDER)
        elbow = polar(*shoulder, side * upper, 0.31)
        hand = polar(*elbow, side * (upper + bend), 0.29)
        tone = shade(sleeve, 0.8)
        arms.append([
            Piece(limb(elbow, hand, 0.095, 0.085), skin if short else tone, ARMS),
            Piece(limb(shoulder, elbow, 0.12, 0.105), tone, ARMS),
            Piece(ellipse(*hand, 0.105), skin, ARMS),
        ])  # fmt: skip
    return arms


def _head(rng, skin: Colour, hair: Colour) -> list[Piece]:
    """Neck, hair, face, and now and then a hat."""
    y = -0.82
    pieces = [Piece(limb((0, -0.66), (0, -0.5), 0.085), shade(skin, 0.9), HEAD)]
    long_hair = rng.random() < 0.4
    if long_hair:
        for side in (-1, 1):
            lock = limb((side * 0.13, y - 0.05), (side * 0.2, y + 0.32), 0.12, 0.09)
            pieces.append(Piece(lock, hair, HEAD))
    pieces += [
        Piece(ellipse(0, y - 0.03, 0.215, 0.235), hair, HEAD),
        Piece(ellipse(0, y + 0.05, 0.18, 0.195), skin, HEAD),
    ]
    turn = rng.uniform(-0.05, 0.05)
    for x in (-0.075, 0.075):
        pieces.append(
            Piece(ellipse(x + turn, y + 0.02, 0.028, 0.034, count=10), (25, 22, 22), HEAD)
        )
    mouth = limb((turn - 0.05, y + 0.145), (turn + 0.05, y + 0.145), 0.016)
    pieces.append(Piece(mouth, (170, 60, 60), HEAD))
    look = rng.random()
    if look < 0.16:
        _, colour = paint(rng)
        pieces += [
            Piece(ellipse(0, y - 0.13, 0.21, 0.15), colour, HEAD),
            Piece(box(-0.33, y - 0.12, 0.33, y - 0.06), shade(colour, 0.8), HEAD),
        ]
    elif look < 0.28:
        _, colour = paint(rng)
        pieces += [
            Piece(ellipse(0, y - 0.12, 0.22, 0.16), colour, HEAD),
            Piece(limb((0.08, y - 0.06), (0.32, y - 0.05), 0.035), shade(colour, 0.75), HEAD),
        ]
    return pieces


def _clothes(rng, pose: str, top: Colour, bottom: Colour) -> list[Piece]:
    """Shirt, sometimes striped or belted, and the skirt."""
    shirt = [(-0.2, -0.58), (0.2, -0.58), (0.33, -0.5), (0.29, -0.2), (0.27, 0.16), (-0.27, 0.16),
             (-0.29, -0.2), (-0.33, -0.5)]  # fmt: skip
    pieces = [Piece(shirt, top, TORSO)]
    look = rng.random()
    if look < 0.2:
        _, stripe = paint(rng)
        pieces += [Piece(box(-0.285, y, 0.285, y + 0.08), stripe, TORSO) for y in (-0.38, -0.18)]
    elif look < 0.35:
        pieces.append(Piece(box(-0.27, 0.09, 0.27, 0.17), shade(bottom, 0.5), TORSO))
    elif look < 0.5:
        pieces.append(Piece(box(-0.02, -0.56, 0.02, 0.16), shade(top, 0.6), TORSO))
    if pose == "skirt":
        hem = rng.uniform(0.45, 0.75)
        width = rng.uniform(0.38, 0.52)
        skirt = [(-0.26, 0.06), (0.26, 0.06), (width, hem), (-width, hem)]
        pieces.append(Piece(skirt, bottom if rng.random() < 0.6 else top, LEGS))
    return pieces


def person(rng: np.random.Generator) -> Figure:
    """A person standing, walking, running, sitting, with arms up or out, or in a skirt.

    The colour word is that of the shirt. Parts: 1 head, 2 torso, 3 arms, 4 legs.
    """
    pose = choose(rng, _POSES)
    skin = jitter(rng, choose(rng, _SKINS), 6)
    hair = jitter(rng, choose(rng, _HAIR), 6)
    word, top = paint(rng)
    _, bottom = paint(rng, ("blue", "black", "gray", "brown", "green", "red", "white", "purple"))
    shoe = choose(rng, ((40, 36, 36), (225, 225, 222), (120, 70, 40), (170, 40, 40)))
    left, right = _arms(rng, pose, top, skin)
    legs = _legs(rng, pose, bottom if pose != "skirt" else skin, skin, shoe)
    in_front = rng.random() < 0.6 and pose not in ("arms up", "arms out")
    pieces = [*left, *legs] if not in_front else legs
    if not in_front:
        pieces += right
    pieces += _clothes(rng, pose, top, bottom)
    pieces += _head(rng, skin, hair)
    if in_front:
        pieces += [*left, *right]
    tilt = 0.08 if rng.random() < 0.95 else 0.7
    return Figure(pieces, word, grain=0.04, tilt=tilt)
