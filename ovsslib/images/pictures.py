"""Pictures in: reading any file as RGB, the published resize, CLIP's normalisation.

One place for the preprocessing of the mmsegmentation protocol that SCLIP, NACLIP, ResCLIP and
ITACLIP share: read, resize with the ratio kept, subtract the mean, divide by the deviation. No
padding, no crop.

The published numbers were made with OpenCV's bilinear resize of 8-bit pixels (no antialiasing,
11-bit fixed-point weights), so the resize here *is* OpenCV's: the difference is 0 by construction.
Files are decoded by Pillow, which reads more kinds and says why it cannot; on ordinary JPEG and PNG
files its pixels equal those of OpenCV's reader.
"""

import os
import threading
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, ImageOps

from ovsslib.errors import ImageError
from ovsslib.images.deep import high_byte, with_deep_samples

MEAN = (122.771, 116.746, 104.094)
"""CLIP's channel means, RGB, on the 0..255 scale, rounded as the published configurations are."""
STD = (68.501, 66.632, 70.323)
"""CLIP's channel deviations, RGB, on the 0..255 scale."""
MAX_PIXELS = 2**28
"""Largest picture that is read, 268 million pixels (16384 x 16384), 805 MB as RGB."""

_PHOTOGRAPHS_OF_A_PLUGIN = (".heic", ".heif", ".jxl", ".raw", ".cr2", ".nef", ".arw", ".dng")
_NEEDS_PLUGIN = (*_PHOTOGRAPHS_OF_A_PLUGIN, ".svg")
PICTURE_SUFFIXES = frozenset(
    {
        *(
            ".jpg",
            ".jpeg",
            ".jpe",
            ".jfif",
            ".png",
            ".webp",
            ".bmp",
            ".tif",
            ".tiff",
            ".gif",
            ".jp2",
        ),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".avif"),
        *_PHOTOGRAPHS_OF_A_PLUGIN,  # reading them says what to do; they are not left out without a word
    }
)
"""File names that count as pictures in a folder, in lower case."""

Picture = str | os.PathLike | Image.Image | np.ndarray

_pillow_limit = threading.Lock()


def read_picture(source: Picture) -> np.ndarray:
    """Read a picture as (H, W, 3) uint8 RGB.

    `source` is a path, a PIL image, or an array that is (H, W, 3) uint8 RGB already (returned as it
    is). The EXIF orientation is applied. Grey, palette, CMYK and other colour models become RGB;
    16-bit samples keep their high byte (12-bit values in 16 bits, their eight highest, with a
    warning); transparency is laid over white; of an animation the first frame is taken.

    Raises ImageError (with the path) when the file is missing, empty, damaged, no picture, of more
    than MAX_PIXELS pixels, or of 32-bit samples whose scale is unknown; when an array has another
    shape or type.
    """
    if isinstance(source, np.ndarray):
        return _checked_array(source)
    if isinstance(source, Image.Image):
        return _given_image(source)
    if not isinstance(source, (str, os.PathLike)):
        raise ImageError(
            "a picture is a path, a PIL image, or an (H, W, 3) uint8 array, "
            f"not {type(source).__name__}"
        )
    if "://" in str(source):
        raise ImageError(
            f"{source} is an address, not a file; download the picture and give its path"
        )
    path = Path(source).expanduser()
    try:
        _check_file(path)
        with _open(path) as image:
            return _to_rgb(with_deep_samples(image, path), str(path))
    except ImageError:
        raise
    except Exception as error:
        # Pillow's decoders raise a dozen kinds of error on damaged files; all mean the same here.
        if path.suffix.lower() in _NEEDS_PLUGIN:
            raise ImageError(
                f"{path} is a {path.suffix[1:].upper()} file, which Pillow reads with a plug-in only; save it as "
                "JPEG or PNG"
            ) from error
        raise ImageError(
            f"{path} cannot be read as a picture ({type(error).__name__}: {error}); "
            "it is damaged, cut off, or no picture: fetch it again or leave it out"
        ) from error


def _given_image(image: Image.Image) -> np.ndarray:
    """A PIL image as RGB. Pillow decodes late: damage of its file shows only here."""
    try:
        return _to_rgb(image, "the given PIL image")
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(
            f"the given PIL image of mode {image.mode} cannot be read ({type(error).__name__}: {error}); its file is "
            "damaged or closed, or it must be converted first: image.convert('RGB')"
        ) from error


def scaled_size(
    height: int, width: int, short_side: int = 336, long_side: int = 2048
) -> tuple[int, int]:
    """Size (height, width) after the resize of the protocol.

    s = min(long_side / longer, short_side / shorter), each side int(x * s + 0.5), at least 1. The
    picture is not brought to `long_side`: that is only the cap for aspect ratios above
    long_side / short_side.
    """
    if min(height, width, short_side, long_side) < 1:
        raise ImageError(
            f"cannot resize {height} x {width} to a short side of {short_side} and a long side of "
            f"at most {long_side}: all four must be at least 1 pixel"
        )
    scale = min(
        max(short_side, long_side) / max(height, width),
        min(short_side, long_side) / min(height, width),
    )
    return max(int(height * scale + 0.5), 1), max(int(width * scale + 0.5), 1)


def resize_picture(
    image: np.ndarray,
    short_side: int = 336,
    long_side: int = 2048,
    *,
    square: bool = False,
    resampling: str = "bilinear",
) -> np.ndarray:
    """Resize an (H, W, 3) uint8 picture to `scaled_size`.

    Args:
        square: squeeze it to short_side x short_side instead; the aspect ratio is not kept.
        resampling: "bilinear" as OpenCV does on uint8 (the released SCLIP-family code), or "bicubic" as Pillow does,
            which averages where the picture is made smaller (CLIP's own preprocessing).

    Raises ImageError when `image` is not (H, W, 3) uint8.
    """
    image = _checked_array(image)
    height, width = scaled_size(image.shape[0], image.shape[1], short_side, long_side)
    if square:
        height = width = short_side
    if resampling == "bicubic":
        resized = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
        return np.asarray(resized)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


def normalise(
    image: np.ndarray,
    mean: tuple[float, float, float] = MEAN,
    std: tuple[float, float, float] = STD,
) -> torch.Tensor:
    """(H, W, 3) uint8 RGB -> (3, H, W) float32 pixels, (x - mean) / std per channel."""
    image = _checked_array(image)
    pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float()
    return (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def denormalise(
    pixels: torch.Tensor,
    mean: tuple[float, float, float] = MEAN,
    std: tuple[float, float, float] = STD,
) -> np.ndarray:
    """(3, H, W) normalised pixels -> (H, W, 3) uint8 RGB, rounded and clipped: undoes :func:`normalise`."""
    pixels = pixels.detach().float().cpu()
    values = pixels * torch.tensor(std).view(3, 1, 1) + torch.tensor(mean).view(3, 1, 1)
    return values.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def open_untouched(path: Path) -> Image.Image:
    """Open a file with Pillow as it is stored (a label map: no orientation, palette indices kept).

    The caller closes it. Raises ImageError as `read_picture` does, except for damage in the pixels,
    which shows only when they are decoded.
    """
    try:
        _check_file(path)
        return _open(path)
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(
            f"{path} cannot be read as a picture ({type(error).__name__}: {error}); fetch it again"
        ) from error


def _check_file(path: Path) -> None:
    if not path.exists():
        raise ImageError(f"{path} does not exist; check the path")
    if path.is_dir():
        raise ImageError(f"{path} is a folder, not a picture; name a file in it")
    if not path.is_file():
        raise ImageError(f"{path} is a pipe or a device, not a picture; save it to a file first")
    if path.stat().st_size == 0:
        raise ImageError(f"{path} is empty (0 bytes); fetch it again")


def _open(path: Path) -> Image.Image:
    # Pillow warns above 89 million pixels and refuses twice that. Both limits are lower than ours,
    # and they are one global, looked at while a file is opened: it is lifted for that moment only.
    with _pillow_limit:
        limit = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None
        try:
            image = Image.open(path)
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    if image.width * image.height > MAX_PIXELS:
        size = f"{image.width} x {image.height}"
        image.close()
        raise ImageError(
            f"{path} has {size} pixels, more than the limit of {MAX_PIXELS}; scale it down first"
        )
    return image


def _to_rgb(image: Image.Image, where: str) -> np.ndarray:
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(
            f"{where} has {image.width} x {image.height} pixels, more than the limit of "
            f"{MAX_PIXELS}; scale it down first"
        )
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        return _from_deep_grey(np.asarray(image), where)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        # Image.alpha_composite is exact for both opaque and fully transparent pixels.
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
    pixels = np.array(image.convert("RGB"))
    if pixels.size == 0:
        raise ImageError(f"{where} has no pixels ({image.width} x {image.height}); use another")
    return pixels


def _from_deep_grey(values: np.ndarray, where: str) -> np.ndarray:
    """(H, W) samples of more than 8 bits -> (H, W, 3) uint8."""
    if values.size == 0:
        raise ImageError(f"{where} has no pixels; use another picture")
    if values.dtype.kind == "f" or values.min() < 0 or values.max() > 65535:
        raise ImageError(
            f"{where} has {values.dtype} samples from {values.min()} to {values.max()}, whose "
            "scale is not known; save it with 8 or 16 bits per sample"
        )
    return np.repeat(high_byte(values, where)[..., None], 3, axis=2)


def _checked_array(image: np.ndarray) -> np.ndarray:
    if not isinstance(image, np.ndarray):
        raise ImageError(f"expected an (H, W, 3) uint8 array, not {type(image).__name__}")
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ImageError(
            f"expected an (H, W, 3) uint8 RGB array, got shape {image.shape} of {image.dtype}; "
            "give grey pictures three equal channels, and scale floats to 0..255"
        )
    if image.size == 0:
        raise ImageError(f"a picture of shape {image.shape} has no pixels")
    return image
