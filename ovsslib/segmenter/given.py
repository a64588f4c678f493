"""What people hand to a segmenter's inner functions, looked at before a tower fails on it."""

import torch
from torch import Tensor

from ovsslib.errors import ImageError, WordsError
from ovsslib.stages.contexts import Words

_UNIT = 0.02  # half precision rounds lengths by less


def checked_pixels(pixels: Tensor) -> Tensor:
    """Normalised pixels as they are. Raises ImageError for what is no (B, 3, H, W) of finite fractions."""
    if not isinstance(pixels, Tensor) or pixels.ndim != 4 or pixels.shape[1] != 3:
        form = tuple(pixels.shape) if isinstance(pixels, Tensor) else type(pixels).__name__
        raise ImageError(
            f"pixels are a tensor (B, 3, H, W), not {form}; make one with segmenter.prepare(picture)[None]"
        )
    if not pixels.is_floating_point():
        raise ImageError(
            f"pixels are CLIP-normalised fractions, not {pixels.dtype}; make them with segmenter.prepare(picture)[None]"
        )
    if not torch.isfinite(pixels).all():
        raise ImageError("pixels hold values that are not finite; prepare the picture again")
    return pixels


def checked_words(text_features: Tensor | Words, dim: int) -> Words:
    """Text features as `Words`. Raises WordsError for rows of another width or length: cosines need unit rows."""
    if isinstance(text_features, Words):
        return text_features
    if not isinstance(text_features, Tensor) or text_features.shape[1:] != (dim,):
        form = (
            tuple(text_features.shape)
            if isinstance(text_features, Tensor)
            else type(text_features).__name__
        )
        raise WordsError(
            f"text features are (Q, {dim}) rows, not {form}; make them with segmenter.text(words).features"
        )
    lengths = text_features.detach().float().norm(dim=1)
    wrong = (~((lengths - 1).abs() < _UNIT)).nonzero()
    if len(wrong):
        place = int(wrong[0])
        raise WordsError(
            f"row {place} of the text features has the length {float(lengths[place]):.3g}, and cosines need unit rows; "
            "divide them by it: torch.nn.functional.normalize(rows, dim=-1)"
        )
    return Words(text_features, len(text_features))
