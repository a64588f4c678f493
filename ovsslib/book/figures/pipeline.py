"""The flow of a recipe, drawn from the recipe itself, so that the figure cannot say what the code does not do."""

import textwrap

from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from ovsslib.book.figures.style import INK, new_figure
from ovsslib.recipe import POINTS, Recipe, stage_info, stages

TITLES = {
    "text": "prompts",
    "words": "choice of words",
    "windows": "windows",
    "views": "views of a window",
    "trunk": "earlier blocks",
    "attention": "last block",
    "picture": "whole picture",
    "features": "patch features",
    "picture_text": "text of the picture",
    "similarity": "similarity",
    "refine": "refinement",
    "scores": "class scores",
    "confidence": "confidence",
    "labels": "labels",
}
AFTER_CONFIDENCE = "refinement of scores"
_SAND, _GREY, _SKY, _SEA, _ROSE = "#f6d7a7", "#e8e8e8", "#cfe8f7", "#bfe3d4", "#f3c9de"
_TINTS = {
    "text": _SAND,
    "words": _SAND,
    "windows": _GREY,
    "views": _SKY,
    "trunk": _SEA,
    "attention": _SEA,
    "picture": _SEA,
    "features": _ROSE,
    "picture_text": _SAND,
    "similarity": _SAND,
    "refine": "#c7d9f0",
    "scores": "#f7ccb0",
    "confidence": "#f7ccb0",
    "labels": _GREY,
}
# Fields that are told even where they have their defaults: without them a box would not say what its stage does.
_MAIN = {
    "text": ("prompts",), "windows": ("short_side", "crop", "stride"),
    "image_engineering": ("weight",), "attention": ("terms", "residual", "feed_forward"),
    "middle_layers": ("layers", "weight"), "rcs": ("layers", "tau", "lam"), "sfr": ("tau", "lam"),
    "local_mask": ("std",), "gem": ("depth",), "upsampling": ("method", "grid", "way_back"),
    "feature_rcs": ("alpha", "temperature"), "regions": ("bins", "pool"), "feedback": ("iterations", "quantile"),
    "pamr": ("iterations", "dilations"), "densecrf": ("parameters",), "calibration": ("mode",),
    "hierarchy": ("mode",), "labels": ("logit_scale",), "clusters": ("eps", "min_samples"),
}  # fmt: skip


def pipeline(recipe: Recipe, all_stages: bool = False, columns: int = 4) -> Figure:
    """Boxes of the flow in order, each with its active stages and what they are set to.

    Args:
        recipe: what is drawn.
        all_stages: also list stages that are off, in grey.
        columns: boxes in a row.
    """
    boxes = [box for box in _boxes(recipe, all_stages) if box[2]]
    rows = -(-len(boxes) // columns)
    heights = [
        max(len(lines) for _, _, lines in boxes[r * columns : (r + 1) * columns]) * 0.17 + 0.55
        for r in range(rows)
    ]
    figure, axes = new_figure(8.4, sum(heights) + 0.35 * (rows - 1) + 0.05)
    axes.set_axis_off()
    axes.set_xlim(0, columns)
    axes.set_ylim(-(sum(heights) + 0.35 * (rows - 1) + 0.05), 0.02)
    top, previous = 0.0, None
    for index, (point, title, lines) in enumerate(boxes):
        row, column = divmod(index, columns)
        if column == 0 and row:
            top -= heights[row - 1] + 0.35
        corner = (column + 0.04, top - heights[row])
        axes.add_patch(
            FancyBboxPatch(
                corner,
                0.86,
                heights[row],
                boxstyle="round,pad=0,rounding_size=0.04",
                facecolor=_TINTS[point],
                edgecolor=INK,
                linewidth=0.8,
            )
        )
        axes.text(column + 0.09, top - 0.1, title, weight="bold", fontsize=9, va="top")
        for number, (line, active) in enumerate(lines):
            axes.text(
                column + 0.09,
                top - 0.34 - 0.17 * number,
                line,
                fontsize=7.5,
                va="top",
                color=INK if active else "#8a8a8a",
            )
        middle = top - heights[row] / 2
        if previous is not None:
            _arrow(axes, previous, (column, middle, row, top), heights)
        previous = (column, middle, row, top)
    return figure


def _arrow(axes, start, end, heights) -> None:
    if start[2] == end[2]:
        points = ((start[0] + 0.9, start[1]), (end[0] + 0.04, end[1]))
        axes.add_patch(FancyArrowPatch(*points, arrowstyle="-|>", mutation_scale=9, color=INK))
        return
    gap = start[3] - heights[start[2]] - 0.17
    middle = start[0] + 0.47
    axes.plot(
        [middle, middle, end[0] + 0.47],
        [start[3] - heights[start[2]], gap, gap],
        color=INK,
        linewidth=1,
    )
    axes.add_patch(
        FancyArrowPatch(
            (end[0] + 0.47, gap),
            (end[0] + 0.47, end[3]),
            arrowstyle="-|>",
            mutation_scale=9,
            color=INK,
        )
    )


def _boxes(recipe: Recipe, all_stages: bool) -> list[tuple[str, str, list[tuple[str, bool]]]]:
    """(point, title, lines) in the order in which the segmenter runs them.

    Stages that refine probabilities (DenseCRF) stand at "refine", but run behind the confidence stages.
    """
    late = {name for name, info in stages().items() if hasattr(info.settings, "on_probabilities")}
    boxes = []
    for point in POINTS:
        early = [
            name for name, info in stages().items() if info.point == point and name not in late
        ]
        boxes.append((point, TITLES[point], _lines(recipe, early, all_stages)))
        if point == "confidence":
            boxes.append(("refine", AFTER_CONFIDENCE, _lines(recipe, sorted(late), all_stages)))
    return boxes


def _lines(recipe: Recipe, names: list[str], all_stages: bool) -> list[tuple[str, bool]]:
    lines = []
    for name in names:
        active = name in recipe
        if not active and not all_stages:
            continue
        lines.append((name if active else f"{name} (off)", active))
        if active:
            text = _settings(recipe, name)
            lines += [("  " + part, active) for part in textwrap.wrap(text, 27)][:5]
    return lines


def _settings(recipe: Recipe, name: str) -> str:
    """The main fields of a stage, and all others that differ from their defaults."""
    values = recipe.resolved()[name]
    default = Recipe("default").but({name: True}).resolved()[name] if stage_info(name) else {}
    shown = {key: value for key, value in values.items() if value != default.get(key)}
    shown = {key: values[key] for key in _MAIN.get(name, ())} | shown
    return ", ".join(f"{key} {_text(value)}" for key, value in shown.items())


def _text(value) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, (list, tuple)):
        return " ".join(str(item) for item in value)
    return str(value)
