"""Materials: a bank of textures per seed, larger than a picture, from which pictures cut theirs.

Only float32 sums and products and Pillow's resampling are used, so that the bytes of a texture do
not depend on how a processor computes sines.
"""

from functools import lru_cache

import numpy as np
from PIL import Image

from ovsslib.scenes.canvas import choose, jitter
from ovsslib.scenes.classes import STUFF

HEIGHT, WIDTH = 320, 432
PER_CLASS = 16

_ROWS = np.arange(HEIGHT, dtype=np.float32)[:, None]
_COLUMNS = np.arange(WIDTH, dtype=np.float32)[None, :]


def smooth_noise(rng: np.random.Generator, down: float, across: float, octaves: int = 1,
                 shape: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:  # fmt: skip
    """Noise (H,W) float32, mean 0 and deviation 1, with about down x across cells at first."""
    total = np.zeros(shape, np.float32)
    for octave in range(octaves):
        cells = (min(shape[0], max(2, round(down * 2**octave))),
                 min(shape[1], max(2, round(across * 2**octave))))  # fmt: skip
        coarse = rng.standard_normal(cells).astype(np.float32)
        resized = Image.fromarray(coarse).resize(shape[::-1], Image.Resampling.BICUBIC)
        total += np.asarray(resized) * np.float32(0.55**octave)
    return (total - total.mean()) / (total.std() + np.float32(1e-6))


def grain(rng: np.random.Generator) -> np.ndarray:
    """Fine noise (H,W) float32 of deviation about 1, softened a little."""
    fine = rng.standard_normal((HEIGHT, WIDTH)).astype(np.float32)
    return (fine + np.roll(fine, 1, 0) + np.roll(fine, 1, 1)) * np.float32(0.577)


def wave(phase: np.ndarray) -> np.ndarray:
    """A smooth wave of period 1 between -1 and 1 (a polynomial in place of the sine)."""
    folded = np.abs(2 * (phase - np.floor(phase)) - 1)
    return 2 * folded * folded * (3 - 2 * folded) - 1


def cells(rng: np.random.Generator, height: float, width: float):
    """Voronoi cells of one random point per height x width box: nearest and second distances
    (in boxes) and a random number per cell, each (H,W) float32."""
    rows, columns = int(HEIGHT / height) + 4, int(WIDTH / width) + 4
    points = rng.random((rows, columns, 2), np.float32)
    values = rng.standard_normal((rows, columns)).astype(np.float32)
    y, x = _ROWS / np.float32(height) + 1, _COLUMNS / np.float32(width) + 1
    row, column = np.floor(y).astype(int), np.floor(x).astype(int)
    first: np.ndarray = np.full((HEIGHT, WIDTH), 9, np.float32)
    second: np.ndarray = first.copy()
    value: np.ndarray = np.zeros_like(first)
    for down in (-1, 0, 1):
        for across in (-1, 0, 1):
            r, c = row + down, column + across
            dy, dx = r + points[r, c, 0] - y, c + points[r, c, 1] - x
            distance = dy * dy + dx * dx
            nearer = distance < first
            second = np.where(nearer, first, np.minimum(second, distance))
            value = np.where(nearer, values[r, c], value)
            first = np.where(nearer, distance, first)
    return np.sqrt(first), np.sqrt(second), value


def _tint(base, *layers) -> np.ndarray:
    """`base` colour plus layers of (field (H,W), colour change per unit)."""
    image = np.empty((HEIGHT, WIDTH, 3), np.float32)
    image[:] = np.asarray(base, np.float32)
    for layer, change in layers:
        image += layer[..., None] * np.asarray(change, np.float32)
    return image


def _blend(image: np.ndarray, colour, weight: np.ndarray) -> np.ndarray:
    weight = np.clip(weight, 0, 1)[..., None]
    return image * (1 - weight) + np.asarray(colour, np.float32) * weight


def _sky(rng):
    looks = (((82, 145, 225), (190, 220, 245)), ((120, 180, 240), (215, 232, 245)),
             ((60, 105, 190), (170, 200, 235)), ((95, 110, 175), (250, 190, 140)))  # fmt: skip
    top, bottom = choose(rng, looks)
    down = np.broadcast_to(_ROWS / HEIGHT, (HEIGHT, WIDTH))
    image = _blend(_tint(jitter(rng, top)), jitter(rng, bottom), down)
    clouds = smooth_noise(rng, 4, 3, 4) * 0.5 - rng.uniform(-0.25, 0.7)
    return _blend(image, (248, 248, 250), clouds * 1.3)


def _grass(rng):
    base = choose(rng, ((78, 140, 45), (98, 155, 55), (60, 112, 40), (122, 150, 58)))
    blades = smooth_noise(rng, 30, 130, 2)
    return _tint(jitter(rng, base), (smooth_noise(rng, 4, 5, 2), (8, 11, 5)),
                 (blades, (15, 19, 9)), (grain(rng), (4, 5, 3)))  # fmt: skip


def _sea(rng):
    base = choose(rng, ((24, 84, 140), (20, 108, 140), (34, 72, 112), (30, 122, 160)))
    swell = wave(_ROWS / np.float32(rng.uniform(9, 20)) + smooth_noise(rng, 5, 4, 2) * 0.45)
    ripple = smooth_noise(rng, 46, 9, 2)
    image = _tint(jitter(rng, base), (swell, (9, 14, 16)), (ripple, (11, 16, 18)))
    return _blend(image, (225, 238, 242), (swell * 0.6 + ripple - 1.75) * 1.5)


def _sand(rng):
    base = choose(rng, ((216, 190, 140), (226, 206, 164), (204, 174, 122)))
    ripples = wave(_ROWS / np.float32(rng.uniform(10, 20)) + smooth_noise(rng, 3, 3, 2) * 0.8)
    return _tint(jitter(rng, base), (ripples, (rng.uniform(0, 11),) * 3),
                 (smooth_noise(rng, 5, 4, 2), (6, 6, 6)), (grain(rng), (7, 7, 7)))  # fmt: skip


def _road(rng):
    base = choose(rng, ((84, 84, 90), (104, 104, 108), (66, 66, 71)))
    image = _tint(jitter(rng, base, 7), (smooth_noise(rng, 4, 4, 3), (4, 4, 4)),
                  (grain(rng), (4.5, 4.5, 4.5)))  # fmt: skip
    if rng.random() < 0.75:
        paint = (232, 232, 228) if rng.random() < 0.65 else (232, 192, 56)
        period, dash = rng.uniform(80, 150), rng.uniform(50, 90)
        lines = (_ROWS + rng.uniform(0, period)) % period < rng.uniform(6, 10)
        dashes = (_COLUMNS + rng.uniform(0, dash)) % dash < dash * rng.uniform(0.5, 1.3)
        image = _blend(image, paint, (lines & dashes) * np.float32(0.92))
    return image


def _snow(rng):
    drifts = smooth_noise(rng, 4, 3, 4)
    return _tint(jitter(rng, (230, 236, 245), 4), (drifts, (8, 7, 4)), (grain(rng), (2.5, 2.5, 2)))


def _dirt(rng):
    base = choose(rng, ((112, 78, 50), (132, 94, 62), (96, 62, 42)))
    near, _, value = cells(rng, rng.uniform(9, 16), rng.uniform(11, 20))
    image = _tint(jitter(rng, base), (smooth_noise(rng, 6, 6, 4), (15, 12, 9)),
                  (grain(rng), (6, 5, 4)))  # fmt: skip
    pebbles = (near < 0.3) & (value > 0.6)
    return _blend(image, jitter(rng, (168, 148, 124), 10), pebbles * np.float32(0.8))


def _wall_brick(rng):
    base = choose(
        rng, ((166, 70, 50), (146, 60, 46), (186, 100, 70), (132, 80, 60), (192, 122, 100))
    )
    height = rng.uniform(15, 25)
    width = height * rng.uniform(1.9, 2.5)
    row = np.floor(_ROWS / height)
    along = _COLUMNS + (row % 2) * width / 2
    tones = rng.standard_normal(4096).astype(np.float32)
    tone = tones[((row * 37 + np.floor(along / width) * 101) % 4096).astype(int)]
    gap = max(2.0, height * 0.13)
    mortar = (_ROWS % height < gap) | (along % width < gap)
    image = _tint(jitter(rng, base), (tone, (15, 10, 8)), (smooth_noise(rng, 40, 50, 2), (5, 4, 4)))
    return _blend(image, jitter(rng, (196, 186, 176), 16), mortar * np.float32(0.95))


def _wall_stone(rng):
    base = choose(rng, ((142, 136, 126), (162, 152, 136), (122, 120, 118)))
    size = rng.uniform(22, 42)
    near, second, value = cells(rng, size, size * rng.uniform(1.1, 1.5))
    image = _tint(
        jitter(rng, base), (value, (17, 16, 15)), (smooth_noise(rng, 30, 36, 3), (7, 7, 7))
    )
    return _blend(image, jitter(rng, (66, 62, 58), 9), (0.13 - (second - near)) * 14)


def _wall_plain(rng):
    base = choose(rng, ((226, 212, 178), (198, 214, 186), (230, 186, 176), (212, 178, 112),
                        (196, 178, 208), (158, 176, 152)))  # fmt: skip
    image = _tint(
        jitter(rng, base), (smooth_noise(rng, 3, 3, 2), (4, 4, 4)), (grain(rng), (1.6,) * 3)
    )
    look = rng.random()
    if look < 0.4:
        width = rng.uniform(22, 48)
        stripes = (_COLUMNS + rng.uniform(0, width)) % width < width / 2
        stripes = np.broadcast_to(stripes, (HEIGHT, WIDTH))
        image = image * (1 - stripes[..., None] * np.float32(rng.uniform(0.07, 0.15)))
    elif look < 0.6:
        step = rng.uniform(22, 36)
        row = np.floor(_ROWS / step)
        u = (_COLUMNS + (row % 2) * step / 2) % step - step / 2
        v = _ROWS % step - step / 2
        dots = (u * u + v * v < (step * 0.17) ** 2) * np.float32(0.55)
        image = _blend(image, jitter(rng, (176, 110, 110), 30), dots)
    return image


def _floor_wood(rng):
    base = choose(rng, ((166, 110, 60), (190, 140, 90), (132, 80, 46), (206, 164, 114)))
    height, width = rng.uniform(18, 34), rng.uniform(110, 200)
    row = np.floor(_ROWS / height)
    along = _COLUMNS + rng.uniform(0, 3 * width, 64).astype(np.float32)[row.astype(int)]
    tones = rng.standard_normal(4096).astype(np.float32)
    tone = tones[((row * 53 + np.floor(along / width) * 97) % 4096).astype(int)]
    image = _tint(
        jitter(rng, base), (tone, (11, 10, 8)), (smooth_noise(rng, 120, 5, 3), (10, 9, 7))
    )
    joints = (_ROWS % height < 2) | (along % width < 2)
    return image * (1 - joints[..., None] * np.float32(0.42))


def _floor_tile(rng):
    light = choose(rng, ((226, 222, 214), (190, 206, 210), (216, 196, 176), (206, 214, 200)))
    size = rng.uniform(26, 46)
    light = np.asarray(jitter(rng, light), np.float32)
    dark = choose(rng, ((62, 62, 66), (112, 136, 148), (172, 118, 98)))
    dark = jitter(rng, dark) if rng.random() < 0.6 else light * np.float32(0.92)
    odd = (np.floor(_ROWS / size) + np.floor(_COLUMNS / size)) % 2
    image = _blend(_tint(light, (smooth_noise(rng, 8, 8, 2), (2.5, 2.5, 2.5))), dark, odd)
    joints = (_ROWS % size < 2.4) | (_COLUMNS % size < 2.4)
    return _blend(image, jitter(rng, (122, 120, 116), 14), joints * np.float32(0.95))


def _mountain(rng):
    base = choose(rng, ((120, 112, 118), (104, 112, 132), (128, 106, 92), (92, 104, 100)))
    ridges = 1 - 2 * np.abs(smooth_noise(rng, 4, 6, 4))
    slope = smooth_noise(rng, 5, 12, 3)
    image = _tint(jitter(rng, base), (ridges, (13, 13, 13)), (slope, (14, 13, 12)))
    if rng.random() < 0.45:
        heights = (HEIGHT * rng.uniform(0.25, 0.5) - _ROWS) / 40 + slope
        image = _blend(image, (238, 241, 246), heights * 1.5)
    return image


def _bush(rng):
    base = choose(rng, ((44, 92, 40), (56, 104, 38), (36, 78, 48), (70, 104, 40)))
    size = rng.uniform(6, 10)
    near, _, value = cells(rng, size, size * 1.1)
    clumps, _, _ = cells(rng, size * 4, size * 5)
    image = _tint(jitter(rng, base, 7), (value, (11, 17, 8)), (0.45 - near, (44, 62, 30)),
                  (0.5 - clumps, (60, 84, 44)))  # fmt: skip
    if rng.random() < 0.4:
        flower = choose(rng, ((222, 70, 100), (240, 214, 80), (240, 238, 236), (180, 90, 190)))
        image = _blend(image, flower, ((near < 0.33) & (value > 0.9)) * np.float32(0.9))
    return image


_MAKERS = {
    "sky": _sky, "grass": _grass, "sea": _sea, "sand": _sand, "road": _road, "snow": _snow,
    "dirt": _dirt, "wall-brick": _wall_brick, "wall-stone": _wall_stone, "wall-plain": _wall_plain,
    "floor-wood": _floor_wood, "floor-tile": _floor_tile, "mountain": _mountain, "bush": _bush,
}  # fmt: skip


@lru_cache(maxsize=3 * PER_CLASS * len(STUFF))
def texture(seed: int, name: str, number: int) -> np.ndarray:
    """Texture `number` (0..PER_CLASS-1) of a stuff class (HEIGHT,WIDTH,3) uint8, read-only.

    Each comes from its own random stream of (seed, class, number), so textures are made when first
    needed and two seeds share none.
    """
    key = np.random.SeedSequence([seed, 0x7E87, STUFF.index(name), number])
    image = _MAKERS[name](np.random.default_rng(key))
    image = np.clip(image, 0, 255).astype(np.uint8)
    image.setflags(write=False)
    return image


@lru_cache(maxsize=4)
def noise_field(seed: int) -> np.ndarray:
    """Sensor noise (2 HEIGHT, 2 WIDTH) uint8, mean 128, deviation 32, to cut pictures' from."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, 0x4015E]))
    values = rng.standard_normal((2 * HEIGHT, 2 * WIDTH)) * 32 + 128
    field = np.clip(np.round(values), 0, 255).astype(np.uint8)
    field.setflags(write=False)
    return field


@lru_cache(maxsize=4)
def light_field(seed: int, number: int) -> np.ndarray:
    """Blotches (HEIGHT,WIDTH) float32 of deviation 1: fur, leaves, uneven light on things."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, 0x116487, number]))
    field = smooth_noise(rng, 26, 34, 3)
    field.setflags(write=False)
    return field
