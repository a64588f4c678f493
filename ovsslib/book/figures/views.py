"""The views of image engineering as pictures (ITACLIP, section 3.5)."""

import numpy as np
from torch import Tensor

from ovsslib.errors import RecipeError
from ovsslib.images.pictures import MEAN, STD, Picture, read_picture
from ovsslib.segmenter import Segmenter


def as_picture(pixels: Tensor) -> np.ndarray:
    """CLIP-normalised pixels (3, H, W) back as a picture (H, W, 3) uint8; values out of range are cut off."""
    mean, std = (pixels.new_tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    values = (pixels * std + mean).clamp(0, 255)
    return values.round().permute(1, 2, 0).byte().cpu().numpy()


def view_pictures(segmenter: Segmenter, picture: Picture) -> dict[str, np.ndarray]:
    """What the tower sees of a picture, taken whole: name of the view -> (h, w, 3) uint8.

    Raises RecipeError if the recipe has no image engineering.
    """
    settings = segmenter.views
    if settings is None:
        raise RecipeError(
            f"recipe {segmenter.recipe.name!r} has no views; turn image_engineering on with but()"
        )
    pixels = segmenter.prepare(read_picture(picture))[None]
    views = settings.views(pixels)
    return {
        name.replace("_", " "): as_picture(view[0])
        for name, view in zip(settings.use, views, strict=True)
    }
