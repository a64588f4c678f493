"""Visual prompts: a mask drawn onto a picture, so that CLIP looks at what is inside it.

Source: CaR (Sun et al., CVPR 2024), released code; the arithmetic is OpenCV's on 8-bit pixels. The order is fixed: blur
and grey change what is outside the mask, the circle is drawn last.
"""

from collections.abc import Iterable

import cv2
import numpy as np

from ovsslib.errors import ImageError, RecipeError

KINDS = ("blur", "gray", "black", "circle")
"""The kinds of prompts, in the order in which they are applied."""
RED = (255, 0, 0)


def check_kinds(kinds: Iterable[str], setting: str) -> None:
    """Raise RecipeError for an unknown kind of prompt."""
    for kind in kinds:
        if kind not in KINDS:
            raise RecipeError(
                f"{setting}: unknown visual prompt {kind!r}; known: {', '.join(KINDS)}"
            )


def grey_levels(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB -> (H, W) uint8 by OpenCV's rule for BGR, as released: the weights of red and blue change
    places (0.114 R + 0.587 G + 0.299 B, in 15-bit whole numbers).
    """
    red, green, blue = (image[..., channel].astype(np.int64) for channel in range(3))
    return ((3735 * red + 19235 * green + 9798 * blue + (1 << 14)) >> 15).astype(np.uint8)


def visual_prompt(
    image: np.ndarray, mask: np.ndarray, kinds: Iterable[str], threshold: float
) -> np.ndarray:
    """A picture with a mask drawn onto it.

    Args:
        image: (H, W, 3) uint8 RGB. mask: (H, W) float in [0, 1].
        kinds: of `KINDS`, in any order. blur: Gaussian 15 x 15 outside; gray: grey levels outside; black: zero
            outside; circle: a red ellipse around the mask's bounding box, centred at its mean, 1 pixel wide.
        threshold: the inside is where the mask is above it. A mask that sums to 1 or less leaves the picture as it
            is. Where nothing is above it no circle is drawn (the released code stops there with an error: enlarging a
            map lowers its peak, so a high threshold may leave nothing).

    Raises:
        ImageError: sizes that differ. RecipeError: an unknown kind.
    """
    kinds = set(kinds)
    check_kinds(kinds, "visual prompt")
    if mask.shape != image.shape[:2]:
        raise ImageError(f"a mask of {mask.shape} does not fit a picture of {image.shape[:2]}")
    if mask.sum() <= 1:
        return image
    inside = mask > threshold
    picture = image
    if "blur" in kinds:
        picture = np.where(inside[..., None], picture, cv2.GaussianBlur(image, (15, 15), 0))
    if "gray" in kinds:
        picture = np.where(inside[..., None], picture, grey_levels(picture)[..., None])
    if "black" in kinds:
        picture = np.where(inside[..., None], picture, 0)
    picture = np.ascontiguousarray(picture, dtype=np.uint8)
    if "circle" in kinds and inside.any():
        picture = picture.copy()
        rows, columns = np.nonzero(inside)
        centre = (int(columns.mean()), int(rows.mean()))
        axes = (int(np.ptp(columns)) + 1) // 2, (int(np.ptp(rows)) + 1) // 2
        cv2.ellipse(picture, centre, axes, 0, 0, 360, RED, 1)
    return picture
