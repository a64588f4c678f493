"""Which patches are alike to one of them, for several encoders: what a guide says of a picture."""

from collections.abc import Mapping

import numpy as np
import torch.nn.functional as F
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from ovsslib.book.figures.panels import bar_below
from ovsslib.book.figures.style import bare, new_figure
from ovsslib.errors import RecipeError


def similarity_map(features: Tensor, cell: tuple[int, int]) -> np.ndarray:
    """Cosines of one patch of a map with all of them: (D, h, w) -> (h, w) float32, from -1 to 1.

    Args:
        cell: (row, column) of the patch.

    Raises RecipeError for a patch that the map does not have.
    """
    rows, columns = features.shape[-2:]
    if not (0 <= cell[0] < rows and 0 <= cell[1] < columns):
        raise RecipeError(f"patch={cell}: the map has {rows} rows and {columns} columns of patches")
    unit = F.normalize(features.float(), dim=0)
    return (unit[:, cell[0], cell[1]] @ unit.flatten(1)).unflatten(0, (rows, columns)).numpy()


def similarity_panel(
    image: np.ndarray,
    maps: Mapping[str, tuple[Tensor, int]],
    pixel: tuple[int, int],
    height: float = 2.4,
    columns: int | None = None,
) -> Figure:
    """Cosines of the patch at a pixel with all patches, over the faded picture, for several encoders.

    Encoders differ in how near their cosines lie together, so each map goes from its own lowest to its own highest.

    Args:
        image: (H, W, 3) uint8.
        maps: title -> (features (D, h, w), side of a patch in pixels); patches begin at the picture's top left corner.
        pixel: (row, column) in the picture; the patch that holds it is framed.
        columns: panels in a row; None: all of them.

    Raises RecipeError for a pixel that a map does not cover.
    """
    count = len(maps) + 1
    columns = min(columns or count, count)
    rows = -(-count // columns)
    width = height * image.shape[1] / image.shape[0]
    figure, axes = new_figure(
        width * columns, (height + 0.25) * rows + 0.45, rows, columns, squeeze=False
    )
    for place in axes.flat[count:]:
        place.set_axis_off()
    bare(axes.flat[0], "the patch").imshow(image)
    axes.flat[0].plot(pixel[1], pixel[0], "+", color="#00ffff", markersize=12, markeredgewidth=2)
    for place, (title, (features, patch)) in zip(axes.flat[1:count], maps.items(), strict=True):
        cell = (pixel[0] // patch, pixel[1] // patch)
        shown = similarity_map(features, cell)
        bare(place, title).imshow(image, alpha=0.35)
        place.imshow(
            shown,
            cmap="inferno",
            alpha=0.8,
            extent=(0, shown.shape[1] * patch, shown.shape[0] * patch, 0),
            interpolation="nearest",
        )
        place.set(xlim=(0, image.shape[1]), ylim=(image.shape[0], 0))
        corner = (cell[1] * patch, cell[0] * patch)
        frame = Rectangle(corner, patch, patch, fill=False, edgecolor="#00ffff", linewidth=2)
        place.add_patch(frame)
    label = "cosine, from each map's lowest (0) to its highest (1)"
    bar_below(figure, ScalarMappable(Normalize(0, 1), "inferno"), label)
    return figure
