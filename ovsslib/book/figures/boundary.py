"""The rule of boundary F1 on one picture: outlines, the band around them, and what counts as matched."""

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from ovsslib.book.figures.style import INK, bare, new_figure
from ovsslib.evaluation.metrics import BoundaryRule, boundary_pixels

BAND, MATCHED, MISSED = "#d9d9d9", "#0072b2", "#d55e00"
CROP = 56, 75
"""Height and width in pixels of the part that is enlarged."""


def boundary_panel(
    image: np.ndarray,
    prediction: np.ndarray,
    label: np.ndarray,
    ignore: int = 255,
    rule: BoundaryRule | None = None,
    height: float = 2.9,
) -> Figure:
    """The picture with a frame, and the framed part enlarged twice: predicted outlines on the band of the true ones
    (precision), true outlines on the band of the predicted ones (recall).

    The frame is put where the label map has the most boundary pixels. Arguments as
    :func:`~ovsslib.evaluation.metrics.boundary_pixels`; image (H, W, 3) uint8.
    """
    pixels = boundary_pixels(prediction, label, ignore, rule)
    top, left, tall, wide = _busiest(pixels.true)
    part = np.s_[top : top + tall, left : left + wide]
    width = height * max(image.shape[1] / image.shape[0], wide / tall)
    figure, axes = new_figure(3 * width, height + 0.65, 1, 3)
    bare(axes[0], "picture").imshow(image, interpolation="nearest")
    axes[0].add_patch(
        Rectangle((left - 0.5, top - 0.5), wide, tall, fill=False, edgecolor="#ffffff", linewidth=3)
    )
    axes[0].add_patch(
        Rectangle((left - 0.5, top - 0.5), wide, tall, fill=False, edgecolor=INK, linewidth=1.2)
    )
    views = {
        "precision: predicted outlines": (pixels.near_true, pixels.predicted, pixels.hit),
        "recall: true outlines": (pixels.near_predicted, pixels.true, pixels.found),
    }
    for place, (title, maps) in zip(axes[1:], views.items(), strict=True):
        bare(place, title).imshow(
            _colours(*(outline[part] for outline in maps)), interpolation="nearest"
        )
        place.spines[:].set(visible=True, color=INK, linewidth=0.8)
    reach = (rule or BoundaryRule()).tolerance
    names = {
        BAND: f"within {reach} pixels of an outline of the other map",
        MATCHED: "outline, matched", MISSED: "outline, not matched",
    }  # fmt: skip
    handles = [Patch(facecolor=colour, label=name) for colour, name in names.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def _colours(band: np.ndarray, outline: np.ndarray, matched: np.ndarray) -> np.ndarray:
    """(H, W) bool maps -> (H, W, 3) colours 0..1 on white."""
    shown = np.ones((*band.shape, 3))
    for mask, colour in ((band, BAND), (outline, MISSED), (matched, MATCHED)):
        shown[mask] = to_rgb(colour)
    return shown


def _busiest(edges: np.ndarray) -> tuple[int, int, int, int]:
    """Top, left, height and width of the part of `CROP`'s size with the most boundary pixels, in the middle
    of all such."""
    tall, wide = (min(side, full) for side, full in zip(CROP, edges.shape, strict=True))
    total = np.pad(edges.astype(np.int64), ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    inside = (
        total[tall:, wide:] - total[:-tall, wide:] - total[tall:, :-wide] + total[:-tall, :-wide]
    )
    best = np.argwhere(inside == inside.max())
    top, left = best[np.square(best - best.mean(axis=0)).sum(axis=1).argmin()]
    return int(top), int(left), tall, wide
