"""Rows of pictures: label maps with one legend, attention of a query patch, features as colours."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from torch import Tensor

from ovsslib.book.figures.style import FAINT, INK, bare, lettering, new_figure
from ovsslib.images.palette import class_colours

IGNORED = (255, 255, 255)


def picture_row(
    pictures: Mapping[str, np.ndarray],
    height: float = 2.4,
    columns: int = 5,
    limits: tuple[float, float] | None = None,
    label: str = "",
) -> Figure:
    """Pictures (H, W, 3) uint8 or maps (H, W) under their titles, in even rows of at most `columns`.

    `limits`: values of the darkest and the brightest colour of all maps, which then have one colour bar, titled
    `label`; None: each map has its own and no bar.
    """
    count = len(pictures)
    rows = -(-count // columns)
    columns = -(-count // rows)
    first = next(iter(pictures.values()))
    width = height * first.shape[1] / first.shape[0]
    bar = 0.0 if limits is None else 0.6
    figure, axes = new_figure(
        width * columns, (height + 0.3) * rows + bar, rows, columns, squeeze=False
    )
    low, high = limits or (None, None)
    for place in axes.flat:
        place.set_axis_off()
    for place, (title, picture) in zip(axes.flat, pictures.items(), strict=False):
        place.set_axis_on()
        bare(place, title).imshow(
            picture, cmap="cividis", interpolation="nearest", vmin=low, vmax=high
        )
        # a white picture would be lost on the white page
        place.spines[:].set(visible=True, color=FAINT, linewidth=0.6)
    if limits is not None:
        bar_below(figure, ScalarMappable(Normalize(low, high), "cividis"), label)
    return figure


def mask_panel(
    image: np.ndarray,
    masks: Mapping[str, np.ndarray],
    names: Sequence[str],
    kinds: Sequence[str] | None = None,
    height: float = 2.3,
    columns: int = 4,
    ignore: int = 255,
) -> Figure:
    """A picture and label maps of it under their titles, with one legend of the classes that occur.

    Args:
        image: (H, W, 3) uint8.
        masks: title -> (H, W) integer labels; `ignore` is drawn white.
        names: class names in label order.
    """
    palette = np.asarray(class_colours(list(names), kinds), dtype=np.uint8)
    pictures = {"picture": image}
    present: set[int] = set()
    for title, mask in masks.items():
        pictures[title] = paint(mask, palette, ignore)
        present |= {int(label) for label in np.unique(mask) if label != ignore}
    figure = picture_row(pictures, height, columns)
    _legend_below(figure, {names[label]: palette[label] for label in sorted(present)})
    return figure


def label_sheet(
    pictures: Sequence[tuple[np.ndarray, np.ndarray]],
    names: Sequence[str],
    height: float = 1.7,
    columns: int = 4,
    ignore: int = 255,
) -> Figure:
    """Pictures (H, W, 3) uint8, each above its label map (H, W), with one legend of the classes that occur."""
    palette = np.asarray(class_colours(list(names)), dtype=np.uint8)
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    first = pictures[0][0]
    size = height * first.shape[1] / first.shape[0] * columns, 2 * height * rows
    figure, axes = new_figure(*size, 2 * rows, columns, squeeze=False)
    for place in axes.flat:
        place.set_axis_off()
    for index, (picture, labels) in enumerate(pictures):
        row, column = divmod(index, columns)
        axes[2 * row, column].imshow(picture, interpolation="nearest")
        axes[2 * row + 1, column].imshow(paint(labels, palette, ignore), interpolation="nearest")
    present = sorted(
        {int(value) for _, labels in pictures for value in np.unique(labels)} - {ignore}
    )
    _legend_below(figure, {names[label]: palette[label] for label in present})
    return figure


def mask_rows(
    rows: Sequence[tuple[str, np.ndarray, Mapping[str, np.ndarray]]],
    names: Sequence[str],
    height: float = 1.5,
    ignore: int = 255,
) -> Figure:
    """Rows of a picture and label maps of it, each under its own title, with one legend of the classes that occur.

    Args:
        rows: (title of the picture, picture (H, W, 3) uint8, title -> label map (H, W)); as many maps in each row.
        names: class names in label order.
    """
    palette = np.asarray(class_colours(list(names)), dtype=np.uint8)
    across = 1 + max(len(masks) for _, _, masks in rows)
    first = rows[0][1]
    width = height * first.shape[1] / first.shape[0] * across
    figure, axes = new_figure(width, (height + 0.3) * len(rows), len(rows), across, squeeze=False)
    present: set[int] = set()
    for places, (title, picture, masks) in zip(axes, rows, strict=True):
        for place in places:
            place.set_axis_off()
        shown = {title: picture} | {t: paint(mask, palette, ignore) for t, mask in masks.items()}
        for place, (text, panel) in zip(places, shown.items(), strict=False):
            place.set_axis_on()
            bare(place).imshow(panel, interpolation="nearest")
            place.set_title(text, fontsize=8)
            place.spines[:].set(visible=True, color=FAINT, linewidth=0.6)
        for mask in masks.values():
            present |= {int(label) for label in np.unique(mask)} - {ignore}
    _legend_below(figure, {names[label]: palette[label] for label in sorted(present)})
    return figure


def bar_below(figure: Figure, scale: ScalarMappable, label: str) -> None:
    """The colour bar of all maps of a figure."""
    size = lettering(figure)
    bar = figure.colorbar(scale, ax=figure.axes, location="bottom", shrink=0.5, aspect=40)
    bar.set_label(label, size=size)
    bar.ax.tick_params(labelsize=0.9 * size)


def _legend_below(figure: Figure, colours: Mapping[str, np.ndarray]) -> None:
    """One legend under all pictures, the figure made taller by it; `colours`: name -> (3,) uint8."""
    handles = []
    for name, colour in colours.items():
        red, green, blue = (float(part) / 255 for part in colour)
        face = (red, green, blue)
        handles.append(Patch(facecolor=face, edgecolor=INK, linewidth=0.4, label=name))
    width, size = figure.get_size_inches()[0], lettering(figure)
    across = max(2, min(len(handles), int(width / (0.125 * size))))
    rows = -(-len(handles) // across)
    figure.set_size_inches(width, figure.get_size_inches()[1] + 0.024 * size * rows + 0.1)
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=across,
        fontsize=0.9 * size,
        handlelength=1.2,
        handleheight=1.0,
        frameon=False,
    )


def paint(mask: np.ndarray, palette: np.ndarray, ignore: int = 255) -> np.ndarray:
    """Label map (H, W) -> (H, W, 3) uint8 in the palette's colours (C, 3); ignored pixels are white."""
    table = np.vstack([palette, [IGNORED]]).astype(np.uint8)
    labels = np.where(mask == ignore, len(palette), mask).astype(np.int64)
    return table[labels]


def attention_panel(
    image: np.ndarray,
    maps: Mapping[str, np.ndarray],
    patch: tuple[int, int],
    height: float = 2.6,
    columns: int | None = None,
) -> Figure:
    """Attention maps (h, w) of one query patch (row, column) over a picture (H, W, 3), each on its own scale.

    Values are shown relative to each map's maximum; the query patch is framed. `columns`: panels in a row; None:
    all of them.
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
    grid = next(iter(maps.values())).shape
    cell = image.shape[0] / grid[0], image.shape[1] / grid[1]
    titles = ["query patch", *maps]
    shown = None
    for place, title, weights in zip(
        axes.flat[:count], titles, [None, *maps.values()], strict=True
    ):
        bare(place, title)
        place.imshow(image, alpha=1.0 if weights is None else 0.35)
        if weights is not None:
            peak = max(float(weights.max()), 1e-12)
            shown = place.imshow(
                weights / peak,
                cmap="inferno",
                alpha=0.8,
                vmin=0,
                vmax=1,
                extent=(0, image.shape[1], image.shape[0], 0),
                interpolation="nearest",
            )
        corner = (patch[1] * cell[1], patch[0] * cell[0])
        place.add_patch(
            Rectangle(corner, cell[1], cell[0], fill=False, edgecolor="#00ffff", linewidth=2)
        )
    assert shown is not None  # there is a map at least
    bar_below(figure, shown, "attention, share of the map's maximum")
    return figure


def feature_panel(image: np.ndarray, features: Mapping[str, Tensor], height: float = 2.4) -> Figure:
    """Feature maps (D, h, w) as colours: their first three principal components, fitted on all maps together."""
    rows = torch.cat([F.normalize(f.float(), dim=0).flatten(1).T for f in features.values()])
    mean = rows.mean(dim=0)
    _, _, axes_ = torch.linalg.svd(rows - mean, full_matrices=False)
    pictures = {"picture": image}
    projected = (rows - mean) @ axes_[:3].T
    low, high = projected.quantile(0.02, dim=0), projected.quantile(0.98, dim=0)
    for title, feature_map in features.items():
        values = (F.normalize(feature_map.float(), dim=0).flatten(1).T - mean) @ axes_[:3].T
        values = ((values - low) / (high - low).clamp_min(1e-9)).clamp(0, 1)
        pictures[title] = values.reshape(*feature_map.shape[1:], 3).numpy()
    return picture_row(pictures, height)
