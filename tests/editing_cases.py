"""What the tests of editing share: a picture of noise and a segmentation of it."""

import numpy as np

from ovsslib.images.segmentation import Segmentation

NAMES = ["background", "dog", "grass", "unicorn"]


def picture(height: int, width: int) -> np.ndarray:
    """Noise (height, width, 3) uint8, the same for the same size."""
    random = np.random.default_rng(height * width)
    return random.integers(0, 256, (height, width, 3), dtype=np.uint8)


def dog_on_grass() -> Segmentation:
    """A dog in two pieces, 20 x 10 and 4 x 4 pixels, on grass, under a background."""
    mask = np.zeros((45, 61), dtype=np.int32)
    mask[15:] = 2
    mask[10:20, 20:40] = 1
    mask[38:42, 3:7] = 1
    scores = np.full((4, 45, 61), 0.1, dtype=np.float32)
    scores[1, :, :30] = 0.8
    return Segmentation(mask, NAMES, scores, picture(45, 61))
