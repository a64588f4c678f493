"""CLIP's own preprocessing, as released code does it with Pillow: bicubic resizes of 8-bit pixels, centre crops.

The protocol of the sliding-window methods is another one (`ovsslib.images.pictures`: OpenCV's bilinear resize). The
two differ in the pixels, so each method gets the one it was released with.
"""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ovsslib.clip.backbone import PIXEL_MEAN, PIXEL_STD
from ovsslib.errors import ImageError

# ImageNet's normalisation, RGB, for pixel values in [0, 1].
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def bicubic(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8 -> (height, width, 3) uint8 of `size`, Pillow's antialiased bicubic; values are rounded."""
    if image.shape[:2] == tuple(size):
        return image
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BICUBIC))


def whole_patches(image: np.ndarray, patch: int, short_side: int = 0) -> np.ndarray:
    """(H, W, 3) uint8 -> the picture with each side rounded up to a multiple of `patch` pixels, bicubic.

    `short_side`: first scaled so that its short side has this many pixels; 0 keeps the picture's own size.
    """
    height, width = image.shape[:2]
    scale = short_side / min(height, width) if short_side else 1.0
    sides = (max(1, round(side * scale)) for side in (height, width))
    return bicubic(image, tuple(-(-side // patch) * patch for side in sides))


def centre_square(image: np.ndarray, side: int) -> np.ndarray:
    """(H, W, 3) uint8 -> (side, side, 3): short side to `side`, bicubic, then the middle of it, as CLIP is shown it.

    What lies outside the middle square is not seen.
    """
    height, width = image.shape[:2]
    short = min(height, width)
    # torchvision's Resize cuts the long side to whole pixels; its CenterCrop rounds the offset half to even
    size = (side if height == short else side * height // width,
            side if width == short else side * width // height)  # fmt: skip
    resized = bicubic(image, size)
    top, left = (round((have - side) / 2.0) for have in size)
    return resized[top : top + side, left : left + side]


def clip_pixels(
    image: np.ndarray,
    mean: tuple[float, float, float] = PIXEL_MEAN,
    std: tuple[float, float, float] = PIXEL_STD,
) -> Tensor:
    """(H, W, 3) uint8 RGB -> (3, H, W) float32: v / 255, then (v - mean) / std per channel."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ImageError(f"expected an (H, W, 3) uint8 picture, got {image.shape} of {image.dtype}")
    pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float() / 255
    return (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def with_other_statistics(
    pixels: Tensor,
    mean: tuple[float, float, float] = PIXEL_MEAN,
    std: tuple[float, float, float] = PIXEL_STD,
) -> Tensor:
    """Normalised pixels (..., 3, H, W) -> the same picture with ImageNet's mean and deviation."""
    clip, imagenet = (
        [torch.tensor(values, device=pixels.device).view(3, 1, 1) for values in pair]
        for pair in ((mean, std), (IMAGENET_MEAN, IMAGENET_STD))
    )
    return (pixels * clip[1] + clip[0] - imagenet[0]) / imagenet[1]
