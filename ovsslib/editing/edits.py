"""From words to a mask to a new picture: masks made fit for editing, and the edits themselves::

    result = segment("photo.jpg", ["dog", "grass", "fence"])
    mask = editing.mask_for(result, "dog", component="largest", feather=3)
    red = editing.recolour(result.image, mask, "firebrick")

`recolour`, `blur`, `grey_out` and `background` need no model. `replace`, `remove` and `background`
with a prompt paint with a diffusion model (:mod:`ovsslib.editing.diffusion`, extra `edit`). Whatever the
edit, pixels where the mask is 0 come back as they were, byte by byte.
"""

import os
from collections.abc import Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageColor, ImageOps
from scipy.ndimage import distance_transform_edt

from ovsslib.editing.diffusion import DEFAULT_MODEL, Inpainter, inpainter_for
from ovsslib.errors import DataError, ImageError, RecipeError, WordsError
from ovsslib.images.pictures import PICTURE_SUFFIXES, Picture, read_picture
from ovsslib.images.segmentation import Segmentation

Colour = str | Sequence[int]
COMPONENTS = ("all", "largest")


# -- from a word to a mask ----------------------------------------------------------------------


def mask_for(
    segmentation: Segmentation,
    word: str,
    component: str = "all",
    grow: float = 0,
    feather: float = 0,
    confidence: float | None = None,
) -> np.ndarray:
    """Where to edit: the pixels of a word as weights, 0 (leave alone) to 1 (edit fully).

    Confidence comes first, then component, then grow, then feather.

    Args:
        segmentation: what a segmenter returned.
        word: one of its words.
        component: "all", or "largest": the largest piece alone (pieces touch at corners as well).
        grow: pixels by which the mask is widened; negative: shrunk. Euclidean, so corners are
            round. The border of the picture is no edge of the object: nothing shrinks from there.
        feather: width in pixels of the soft rim outside the mask, where the weight falls from 1 to
            0 as half a cosine; further out the weight is exactly 0.
        confidence: keep only pixels whose score for the word is at least this, 0 to 1; the
            segmentation must have kept its scores.

    Returns:
        (H, W) float32.

    Raises:
        WordsError: the word was not asked for, or nothing is left of it (the message lists the
            words that have pixels).
        RecipeError: a setting is out of range.
        DataError: `confidence` without scores.
    """
    if component not in COMPONENTS:
        choices = " or ".join(map(repr, COMPONENTS))
        raise RecipeError(f"component must be {choices}, not {component!r}")
    if not np.isfinite(grow):
        raise RecipeError(f"grow must be a number of pixels, not {grow}")
    if not 0 <= feather < np.inf:
        raise RecipeError(f"feather must be a number of pixels of at least 0, not {feather}")
    chosen = segmentation.mask_of(word)
    steps = []
    if confidence is not None:
        chosen = chosen & (_scores_of(segmentation, word, confidence) >= confidence)
        steps.append(f"confidence={confidence}")
    if component == "largest" and chosen.any():
        chosen = _largest_piece(chosen)
    if grow < 0:
        steps.append(f"grow={grow}")
    chosen = _grown(chosen, grow)
    if not chosen.any():
        shown = ", ".join(f"{n!r}" for n, count in _words_with_pixels(segmentation) if count)
        why = f" left after {' and '.join(steps)}" if segmentation.mask_of(word).any() else ""
        raise WordsError(
            f"no pixel of {word!r} is{why or ' in this segmentation'}, so there is nothing to "
            f"edit; words with pixels: {shown}"
        )
    if feather == 0:
        return chosen.astype(np.float32)
    distance = np.zeros(chosen.shape) if chosen.all() else distance_transform_edt(~chosen)
    ramp = 0.5 + 0.5 * np.cos(np.pi * np.minimum(distance / (feather + 1), 1))
    ramp[distance >= feather + 1] = 0
    return ramp.astype(np.float32)


def surrounding_words(
    segmentation: Segmentation, mask: np.ndarray, reach: float = 12, limit: int = 3
) -> list[str]:
    """The at most `limit` words within `reach` pixels around a mask, most frequent first.

    What a painted-over object should turn into: the prompt of :func:`remove`. Pixels of the mask
    itself do not count. "background" is no word to paint and is left out.
    """
    weights = _checked_mask(mask, segmentation.mask.shape)
    ring = _grown(weights > 0, reach) & (weights == 0)
    counts = np.bincount(segmentation.mask[ring], minlength=len(segmentation.names))
    order = np.argsort(-counts, kind="stable")
    words = [segmentation.names[label] for label in order if counts[label]]
    return [word for word in words if word != "background"][:limit]


def _scores_of(segmentation: Segmentation, word: str, confidence: float) -> np.ndarray:
    if not 0 <= confidence <= 1:
        raise RecipeError(f"confidence must lie between 0 and 1, not {confidence}")
    if segmentation.scores is None:
        raise DataError(
            f"confidence={confidence} needs the scores, which this segmentation did not keep; "
            "segment with keep_scores=True"
        )
    return segmentation.scores[segmentation.names.index(word)]


def _largest_piece(chosen: np.ndarray) -> np.ndarray:
    _, pieces, statistics, _ = cv2.connectedComponentsWithStats(
        chosen.astype(np.uint8), connectivity=8
    )
    return pieces == 1 + int(np.argmax(statistics[1:, cv2.CC_STAT_AREA]))


def _grown(chosen: np.ndarray, grow: float) -> np.ndarray:
    """Mask (H, W) bool widened (shrunk if negative) by `grow` pixels."""
    if grow == 0 or chosen.all() or not chosen.any():
        return chosen
    if grow > 0:
        return distance_transform_edt(~chosen) <= grow
    return distance_transform_edt(chosen) > -grow


def _words_with_pixels(segmentation: Segmentation) -> list[tuple[str, int]]:
    pairs = zip(segmentation.names, segmentation.pixels.tolist(), strict=True)
    return sorted(pairs, key=lambda pair: -pair[1])


# -- edits without a model ----------------------------------------------------------------------


def recolour(
    image: Picture, mask: np.ndarray, colour: Colour, lightness: float = 0.5
) -> np.ndarray:
    """The masked object in another colour, its light and shade kept.

    In CIELAB: a* and b* become the colour's; L* is shifted so that its mean over the mask moves the
    share `lightness` of the way to the colour's (0: as light as before, 1: as light as the colour).

    Args:
        image: path, PIL image, or (H, W, 3) uint8 RGB.
        mask: (H, W) bool, or weights 0 to 1 (:func:`mask_for`).
        colour: a CSS name, "#rrggbb", or three numbers 0 to 255.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ImageError: the picture, the mask (shape, range, empty) or the colour is none.
    """
    image = read_picture(image)
    mask = _checked_mask(mask, image.shape[:2])
    if not 0 <= lightness <= 1:
        raise RecipeError(f"lightness must lie between 0 and 1, not {lightness}")
    lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    patch = np.array([[_colour(colour)]], np.float32) / 255
    target = cv2.cvtColor(patch, cv2.COLOR_RGB2LAB)[0, 0]
    mean = float((lab[..., 0] * mask).sum() / mask.sum())
    lab[..., 0] = np.clip(lab[..., 0] + lightness * (target[0] - mean), 0, 100)
    lab[..., 1:] = target[1:]
    return blend(image, 255 * cv2.cvtColor(lab, cv2.COLOR_LAB2RGB), mask)


def blur(image: Picture, mask: np.ndarray, sigma: float | None = None) -> np.ndarray:
    """The masked part blurred with a Gaussian over masked pixels alone: nothing bleeds in.

    sigma: standard deviation in pixels; None: a 24th of the picture's shorter side. Otherwise as
    :func:`recolour`.
    """
    image = read_picture(image)
    mask = _checked_mask(mask, image.shape[:2])
    sigma = min(image.shape[:2]) / 24 if sigma is None else sigma
    if not 0 < sigma < np.inf:
        raise RecipeError(f"sigma must be a number of pixels above 0, not {sigma}")
    weighted = cv2.GaussianBlur(image * mask[..., None].astype(np.float64), (0, 0), sigma)
    weight = cv2.GaussianBlur(mask.astype(np.float64), (0, 0), sigma)
    return blend(image, weighted / np.maximum(weight, 1e-12)[..., None], mask)


def grey_out(image: Picture, mask: np.ndarray) -> np.ndarray:
    """The masked part without colour: its luma (ITU-R BT.601). Otherwise as :func:`recolour`."""
    image = read_picture(image)
    mask = _checked_mask(mask, image.shape[:2])
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return blend(image, np.repeat(grey[..., None], 3, axis=2), mask)


def background(
    image: Picture,
    mask: np.ndarray,
    fill: str | Sequence[int] | Picture = "blur",
    prompt: str | None = None,
    **painting: Any,
) -> np.ndarray:
    """The masked object kept, everything else changed.

    Args:
        image, mask: as for :func:`recolour`; here the mask says what stays.
        fill: "blur", "grey", a colour, or another picture (array, PIL image, path), which is scaled
            and cropped about its centre to the size of this one.
        prompt: paint a new background with a diffusion model instead; `painting` as for
            :func:`replace`.

    Raises:
        ImageError: also if the mask leaves no background. Others as :func:`replace`.
    """
    image = read_picture(image)
    mask = _checked_mask(mask, image.shape[:2])
    surroundings = 1 - mask
    if not surroundings.any():
        raise ImageError("the mask covers the whole picture, so there is no background to change")
    if prompt is not None:
        return replace(image, surroundings, prompt, **painting)
    if painting:
        raise RecipeError(f"{', '.join(painting)} belong to painting, which needs a prompt")
    if isinstance(fill, str) and fill == "blur":
        return blur(image, surroundings)
    if isinstance(fill, str) and fill == "grey":
        return grey_out(image, surroundings)
    return blend(image, _backdrop(fill, image.shape[:2]), surroundings)


def blend(image: np.ndarray, changed: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """image + mask * (changed - image), rounded; exactly `image` where the mask is 0.

    image: (H, W, 3) uint8. changed: (H, W, 3), cut to 0..255. mask: (H, W) weights 0 to 1. Returns
    (H, W, 3) uint8.
    """
    weight = np.asarray(mask, dtype=np.float64)[..., None]
    changed = np.clip(np.asarray(changed, dtype=np.float64), 0, 255)  # 8 bits would wrap around
    mixed = image + weight * (changed - image)
    return np.where(weight > 0, np.rint(mixed), image).astype(np.uint8)


def _backdrop(fill: Any, size: tuple[int, int]) -> np.ndarray:
    """A colour or a picture as (H, W, 3) uint8 of the given size."""
    is_path = isinstance(fill, os.PathLike) or (isinstance(fill, str) and _is_path(fill))
    is_picture = isinstance(fill, Image.Image) or (isinstance(fill, np.ndarray) and fill.ndim > 1)
    if is_path or is_picture:
        height, width = size
        picture = Image.fromarray(read_picture(fill))
        return np.asarray(ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS))
    return np.broadcast_to(np.array(_colour(fill), np.uint8), (*size, 3))


def _is_path(text: str) -> bool:
    """Whether a text is the path of a picture, there or missing, and not a colour's name."""
    path = Path(text).expanduser()
    return path.is_file() or "/" in text or "\\" in text or path.suffix.lower() in PICTURE_SUFFIXES


def _colour(colour: Any) -> tuple[int, int, int]:
    """Red, green, blue, 0 to 255. Raises ImageError for what is no colour, or one on another scale."""
    if isinstance(colour, str):
        try:
            red, green, blue, *alpha = ImageColor.getrgb(colour)
        except ValueError:
            raise ImageError(
                f"{colour!r} is no colour; give a CSS name such as 'teal', '#rrggbb', or three "
                "numbers 0 to 255"
            ) from None
        if alpha and alpha[0] != 255:
            raise ImageError(
                f"the colour {colour!r} is see-through, and an edit has no such thing; leave the last part of the "
                "colour out, and give the mask smaller weights (mask * 0.5)"
            )
        return red, green, blue
    numbers = isinstance(colour, (Sequence, np.ndarray)) and len(colour) == 3
    values = tuple(colour) if numbers else ()
    if not values or not all(
        isinstance(value, (Real, np.number)) and 0 <= float(value) <= 255 for value in values
    ):
        raise ImageError(
            f"a colour is three numbers 0 to 255, a CSS name or '#rrggbb', not {colour!r}"
        )
    fractions = not all(isinstance(value, (Integral, np.integer)) for value in values)
    if fractions and 0 < max(values) <= 1:
        raise ImageError(
            f"the colour {colour!r} looks like one on a scale of 0 to 1; colours are 0 to 255 here: "
            f"{tuple(round(255 * float(value)) for value in values)}"
        )
    red, green, blue = (round(float(value)) for value in values)
    return red, green, blue


def _checked_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask as float32 weights of a picture of `size`. Raises ImageError, also if it is empty."""
    mask = np.asarray(mask)
    if mask.shape != tuple(size):
        raise ImageError(f"the mask must be {tuple(size)} like the picture, not {mask.shape}")
    weights = mask.astype(np.float32)
    if not (np.isfinite(weights).all() and weights.min() >= 0 and weights.max() <= 1):
        raise ImageError(
            "mask weights lie between 0 and 1, not "
            f"{weights.min():g} to {weights.max():g}; divide an 8-bit mask by 255"
        )
    if not weights.any():
        raise ImageError("the mask is empty: it marks no pixel, so there is nothing to edit")
    return weights


# -- edits with a diffusion model ---------------------------------------------------------------


def replace(
    image: Picture,
    mask: np.ndarray,
    prompt: str,
    model: str | os.PathLike | Inpainter = DEFAULT_MODEL,
    **painting: Any,
) -> np.ndarray:
    """What a prompt describes in place of the masked object, painted by a diffusion model.

    Args:
        image, mask: as for :func:`recolour`. All pixels of weight above 0 are painted anew and
            blended in by their weight.
        prompt: what to paint.
        model: model id or local folder, or an :class:`~ovsslib.editing.diffusion.Inpainter` that is loaded
            already.
        painting: settings of :meth:`ovsslib.editing.diffusion.Inpainter.paint`: `negative_prompt`, `seed`,
            `steps`, `guidance`, `short_side`, `progress`.

    Returns:
        (H, W, 3) uint8 RGB, the same for the same seed.

    Raises:
        WordsError: no prompt.
        ImageError: picture or mask.
        ModelError: the model cannot be found, or its safety check withheld the picture.
        MissingPackageError: diffusers is not installed.
    """
    if not prompt.strip():
        raise WordsError("the prompt is empty; say what is to be painted, e.g. 'a red fox'")
    return _painted(image, mask, prompt, model, painting)


def remove(
    image: Picture,
    mask: np.ndarray,
    surroundings: Sequence[str] = (),
    model: str | os.PathLike | Inpainter = DEFAULT_MODEL,
    **painting: Any,
) -> np.ndarray:
    """The masked object painted over with what is around it.

    surroundings: words of what is around it (:func:`surrounding_words`), the prompt of the
    painting; without any the model has the picture alone to go by. Otherwise as :func:`replace`.
    """
    return _painted(image, mask, ", ".join(surroundings), model, painting)


def _painted(
    image: Picture, mask: np.ndarray, prompt: str, model: Any, painting: dict[str, Any]
) -> np.ndarray:
    image = read_picture(image)
    mask = _checked_mask(mask, image.shape[:2])
    painted = inpainter_for(model).paint(image, mask > 0, prompt, **painting)
    return blend(image, painted, mask)
