"""One look for all figures: readable on a phone, on paper, and on the white card of the book's dark mode."""

from typing import Any, cast

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK = "#222222"
FAINT = "#d9d9d9"

_SETTINGS: Any = {
    "figure.dpi": 110,
    "savefig.dpi": 110,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "font.size": 10,
    "axes.titlesize": 10,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "svg.hashsalt": "ovsslib",
}


def figure_style() -> dict:
    """The settings as a dictionary; `plt.rcParams.update(figure_style())` makes them the notebook's default."""
    return dict(_SETTINGS)


def new_figure(width: float = 7.0, height: float = 3.5, rows: int = 1, columns: int = 1, **more):
    """A figure and its axes in the book's style: (Figure, Axes or array of Axes); sizes in inches."""
    with plt.rc_context(_SETTINGS):
        figure, axes = plt.subplots(rows, columns, figsize=(width, height), **more)
    plt.close(figure)  # the notebook shows what a cell returns; an open figure would be shown twice
    return figure, axes


def lettering(figure: Figure) -> float:
    """Points of a figure's letters: 10, and more where the page will shrink a wide figure (its text is 7 inches wide)."""
    return max(10.0, 0.9 * float(figure.get_size_inches()[0]))


def bare(axes: Axes, title: str = "") -> Axes:
    """Axes for a picture: no ticks, no frame, a title as large as the figure needs it."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_title(title, fontsize=lettering(cast(Figure, axes.figure)))
    return axes
