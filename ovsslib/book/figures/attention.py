"""Attention maps: where a patch looks, for any recipe, block and head (thesis Figure 3.5, ITACLIP Figure 3)."""

import numpy as np
from matplotlib.figure import Figure

from ovsslib.book.figures.panels import attention_panel
from ovsslib.errors import RecipeError
from ovsslib.images.pictures import Picture, read_picture
from ovsslib.segmenter import Segmenter
from ovsslib.segmenter.opened import attention_of_patch, attention_weights


def attention_map(
    segmenter: Segmenter,
    picture: Picture,
    patch: tuple[int, int],
    layer: int | None = None,
    head: int | None = None,
    terms: str | None = None,
) -> np.ndarray:
    """Attention of one patch to all patches of the picture, taken whole: (h, w) float32.

    Args:
        picture: path, PIL image or (H, W, 3) uint8.
        patch: (row, column) of the query patch on the grid of the resized picture.
        layer: None: the last block as the recipe changes it. 1 to L: that block with `terms`.
        head: 0 to heads - 1, or None for the mean over heads.
        terms: similarities of `attention.terms` for a given layer; None is CLIP's own "qk".

    Raises:
        RecipeError: a patch, layer or head that does not exist, or a recipe without one matrix (GEM).
    """
    backbone = segmenter.backbone
    pixels = segmenter.prepare(read_picture(picture))[None]
    patch_size = backbone.patch_size
    grid = (pixels.shape[-2] // patch_size, pixels.shape[-1] // patch_size)
    if not (0 <= patch[0] < grid[0] and 0 <= patch[1] < grid[1]):
        raise RecipeError(
            f"patch={patch}: the picture has {grid[0]} rows and {grid[1]} columns of patches"
        )
    if head is not None and not 0 <= head < backbone.heads:
        raise RecipeError(f"head={head}: the model has heads 0 to {backbone.heads - 1}")
    return attention_of_patch(attention_weights(segmenter, pixels, layer, terms), grid, patch, head)


def plot_attention(
    segmenters: dict[str, Segmenter],
    picture: Picture,
    patch: tuple[int, int],
    layer: int | None = None,
    head: int | None = None,
    terms: str | None = None,
) -> Figure:
    """Maps of :func:`attention_map` for several segmenters side by side over the picture."""
    image = read_picture(picture)
    maps = {
        title: attention_map(segmenter, image, patch, layer, head, terms)
        for title, segmenter in segmenters.items()
    }
    return attention_panel(image, maps, patch)
