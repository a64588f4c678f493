"""Pictures of more than 8 bits per sample: which of their bits are looked at."""

import warnings
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

ORIENTATION = 0x0112  # of EXIF
_HALF = 128  # full 16-bit samples reach it in their high byte


def high_byte(values: np.ndarray, where: str) -> np.ndarray:
    """Samples 0 to 65535 of any shape -> uint8, their eight highest bits that are used.

    12-bit cameras store 0 to 4095 in 16 bits. Samples that use fewer than 16 bits give a warning that names `where`.
    """
    values = values.astype(np.int64)
    largest = int(values.max())
    bits = max(8, largest.bit_length())
    if bits < 16:
        warnings.warn(
            f"{where} has 16-bit samples up to {largest}; they are read as {bits}-bit values. Save it with 8 "
            "bits, or scaled to 16, to be sure",
            stacklevel=6,
        )
    return (values >> (bits - 8)).astype(np.uint8)


def with_deep_samples(image: Image.Image, path: Path) -> Image.Image:
    """An opened colour picture as it is, or, where its 16-bit samples use fewer bits, with their eight highest.

    Pillow keeps the high byte of 16-bit colour, which of a 12-bit picture leaves 16 of 256 values: it looks black.
    """
    if image.mode not in ("RGB", "RGBA", "LA") or not _is_deep(image):
        return image
    if np.asarray(image.convert("RGB")).max(initial=0) >= _HALF:
        return image
    samples = cv2.imdecode(np.fromfile(path, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    if samples is None or samples.dtype != np.uint16 or samples.ndim != 3:
        return image
    deep_samples = np.asarray(samples, dtype=np.int64)
    colours = high_byte(deep_samples[..., 2::-1], str(path))
    if samples.shape[2] == 4:
        colours = np.dstack([colours, (deep_samples[..., 3] >> 8).astype(np.uint8)])
    deep = Image.fromarray(colours)
    if ORIENTATION in image.getexif():
        deep.getexif()[ORIENTATION] = image.getexif()[ORIENTATION]
    return deep


def _is_deep(image: Image.Image) -> bool:
    """Whether a file that Pillow opened stores 16 bits per sample."""
    parts = [
        part
        for tile in getattr(image, "tile", [])
        for part in (tile[3] if isinstance(tile[3], tuple) else (tile[3],))
    ]
    return any(isinstance(part, str) and ";16" in part for part in parts)
