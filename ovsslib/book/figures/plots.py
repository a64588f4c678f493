"""Plots of measured numbers: every accuracy with its 95% interval, claims in another mark, never mixed."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.transforms import Bbox

from ovsslib.book.figures.style import FAINT, INK, new_figure
from ovsslib.images.palette import recipe_colour

Interval = tuple[float, float]


def dots(
    table: pd.DataFrame,
    value: str = "value",
    low: str = "low",
    high: str = "high",
    label: str = "mIoU on Scenes (%)",
    claimed: str | None = None,
    claimed_label: str = "claimed (other data set and model)",
    reference: float | None = None,
    spacing: float = 0.36,
) -> Figure:
    """One row per entry of a table (index = names): measured value with interval, optionally a claimed one beside.

    Args:
        table: columns `value`, `low`, `high` in percent; index the names, drawn from top to bottom.
        claimed: column of claimed values, drawn as open diamonds.
        reference: value of a vertical line (a baseline), or None.
        spacing: inches from row to row.
    """
    count = len(table)
    figure, axes = new_figure(7.0, spacing * count + 1.1)
    places = np.arange(count)[::-1]
    values = table[value].to_numpy(float)
    spread = np.abs(np.stack([values - table[low], table[high] - values]).astype(float))
    axes.errorbar(
        values,
        places,
        xerr=spread,
        fmt="o",
        color="#0072b2",
        ecolor="#0072b2",
        capsize=3,
        markersize=5,
        label="measured, 95% interval",
    )
    if claimed is not None and table[claimed].notna().any():
        axes.plot(
            table[claimed],
            places,
            "D",
            markerfacecolor="white",
            markeredgecolor="#d55e00",
            label=claimed_label,
        )
    if reference is not None:
        axes.axvline(reference, color=INK, linewidth=0.8, linestyle="--")
    axes.set_yticks(places, [str(name) for name in table.index])
    axes.set_ylim(-0.6, count - 0.4)
    axes.set_xlabel(label)
    axes.grid(axis="y", visible=False)
    if claimed is not None:
        figure.legend(loc="outside upper center", ncols=2)
    return figure


def bars(
    values: Mapping[str, float], label: str, colours: Mapping[str, str] | None = None
) -> Figure:
    """Horizontal bars of plain numbers (shares, times), labelled with their values."""
    figure, axes = new_figure(7.0, 0.34 * len(values) + 1.0)
    names = list(values)[::-1]
    numbers = [float(values[name]) for name in names]
    tint = [(colours or {}).get(name, "#0072b2") for name in names]
    drawn = axes.barh(names, numbers, color=tint)
    axes.bar_label(drawn, fmt="%.3g", padding=3, fontsize=9)
    axes.set_xlabel(label)
    axes.margins(x=0.12)
    axes.grid(axis="y", visible=False)
    return figure


def side_by_side(panels: Mapping[str, pd.DataFrame], width: float = 8.4) -> Figure:
    """Several quantities of the same things: a panel each, the things in one order from top to bottom.

    `panels`: title of the axis -> table (index = names, the same in all) with `value`; with `low` and `high` it is drawn
    as a dot with its interval, else as a bar with its number.
    """
    first = next(iter(panels.values()))
    names = [str(name) for name in first.index]
    figure, axes = new_figure(
        width, 0.34 * len(names) + 1.1, 1, len(panels), sharey=True, squeeze=False
    )
    places = np.arange(len(names))[::-1]
    for place, (title, table) in zip(axes[0], panels.items(), strict=True):
        values = table["value"].to_numpy(float)
        if "low" in table:
            spread = np.abs(np.stack([values - table["low"], table["high"] - values]).astype(float))
            place.errorbar(values, places, xerr=spread, fmt="o", color="#0072b2", capsize=3)
            place.margins(x=0.15)
        else:
            drawn = place.barh(places, values, color="#0072b2")
            numbers = [f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in values]
            place.bar_label(drawn, numbers, padding=3, fontsize=9)
            place.margins(x=0.3)
        place.set_xlabel(title)
        place.grid(axis="y", visible=False)
    axes[0][0].set_yticks(places, names)
    return figure


def columns(
    values: Mapping[str, float], label: str, groups: Mapping[str, str] | None = None
) -> Figure:
    """Upright bars of many plain numbers, names below them; `groups` (name -> group) colours them, with a legend."""
    figure, axes = new_figure(8.0, 3.2)
    groups = groups or {}
    kinds = list(dict.fromkeys(groups[name] for name in values if name in groups))
    tint = {
        kind: f"#{c}"
        for kind, c in zip(kinds, ("0072b2", "e69f00", "009e73", "cc79a7"), strict=False)
    }
    places = np.arange(len(values))
    numbers = [float(value) for value in values.values()]
    axes.bar(places, numbers, color=[tint.get(groups.get(n), "#0072b2") for n in values])
    axes.set_xticks(places, list(values), rotation=90, fontsize=9)
    axes.set_xlim(-0.7, len(values) - 0.3)
    axes.set_ylabel(label)
    axes.grid(axis="x", visible=False)
    if kinds:
        handles = [Patch(facecolor=tint[kind], label=kind) for kind in kinds if kind in tint]
        axes.legend(handles=handles, loc="upper right")
    return figure


def pareto(
    table: pd.DataFrame,
    x: str = "seconds",
    y: str = "value",
    low: str = "low",
    high: str = "high",
    x_label: str = "seconds per image",
    y_label: str = "mIoU (%)",
    x_limits: Interval | None = None,
    ceiling: tuple[str, float] | None = None,
) -> Figure:
    """Accuracy against cost, with intervals, names beside the points and the frontier of the undominated ones.

    `x_limits`: ends of the cost axis, to give several figures the same one; None: what the points need. `ceiling`: name
    and accuracy of something that the points are not compared with, drawn as a dotted line.
    """
    figure, axes = new_figure(7.0, 4.4)
    table = table.sort_values(x)
    spread = np.abs(np.stack([table[y] - table[low], table[high] - table[y]]).astype(float))
    axes.errorbar(
        table[x], table[y], yerr=spread, fmt="none", ecolor="#999999", capsize=3, linewidth=1
    )
    best, front = -np.inf, []
    for name, row in table.iterrows():
        if row[y] > best:
            best = row[y]
            front.append(name)
    axes.plot(
        table.loc[front, x],
        table.loc[front, y],
        color=INK,
        linewidth=1,
        linestyle="--",
        label="frontier",
    )
    if ceiling is not None:
        axes.axhline(ceiling[1], color="#d55e00", linewidth=1.2, linestyle=":", label=ceiling[0])
    for name, row in table.iterrows():
        axes.plot(
            row[x], row[y], "o", color=recipe_colour(str(name)), markersize=8, markeredgecolor=INK
        )
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.margins(x=0.15, y=0.12)
    if x_limits is not None:
        axes.set_xlim(*x_limits)
    if ceiling is None:
        axes.legend(loc="lower right")
    else:  # beside the points, which the line may leave no room
        figure.legend(loc="outside upper center", ncols=2)
    _label_points(axes, table, x, y)  # last: it needs the final places of the points
    return figure


# Where a name may stand beside its point: points (1/72 inch) right and up, and which end is at the point.
_BESIDE = (
    (9, -3, "left"), (-9, -3, "right"), (0, 8, "center"), (0, -15, "center"), (8, 7, "left"), (8, -14, "left"),
    (-8, 7, "right"), (-8, -14, "right"),
)  # fmt: skip


def _label_points(axes, table: pd.DataFrame, x: str, y: str) -> None:
    """Names beside points: to the right, else at the first place where they cover no point and no other name."""
    axes.figure.draw_without_rendering()  # the canvas of a closed figure draws nothing
    points = axes.transData.transform(table[[x, y]].to_numpy(float))
    radius = 5 * axes.figure.dpi / 72
    taken = [Bbox.from_bounds(h - radius, v - radius, 2 * radius, 2 * radius) for h, v in points]
    for name, row in table.sort_values(y).iterrows():
        places = [*_BESIDE, *((9, 12 * step, "left") for step in range(1, len(table)))]
        for right, up, end in places:
            label = axes.annotate(
                str(name),
                (row[x], row[y]),
                xytext=(right, up),
                textcoords="offset points",
                ha=end,
                fontsize=9,
            )
            label.set_in_layout(
                False
            )  # a name must not move the points that the others were placed by
            box = label.get_window_extent()
            inside = axes.bbox.x0 <= box.x0 and box.x1 <= axes.figure.bbox.x1
            if (inside and box.count_overlaps(taken) == 0) or (right, up, end) == places[-1]:
                break
            label.remove()
        taken.append(box)


def cumulative(
    table: pd.DataFrame,
    value: str = "value",
    low: str = "low",
    high: str = "high",
    seconds: str | None = "seconds",
    claimed: str | None = None,
    label: str = "mIoU (%)",
) -> Figure:
    """A cumulative ablation: accuracy with intervals and claims above, seconds per image below."""
    rows = 2 if seconds else 1
    figure, axes = new_figure(7.0, 2.6 * rows + 0.6, rows, 1, sharex=True, squeeze=False)
    places = np.arange(len(table))
    top = axes[0][0]
    spread = np.abs(np.stack([table[value] - table[low], table[high] - table[value]]).astype(float))
    top.errorbar(
        places,
        table[value],
        yerr=spread,
        fmt="o-",
        color="#0072b2",
        capsize=3,
        label="measured, 95% interval",
    )
    if claimed is not None:
        top.plot(
            places,
            table[claimed],
            "D--",
            color="#d55e00",
            markerfacecolor="white",
            label="claimed (other data set and model)",
        )
    top.set_ylabel(label)
    figure.legend(loc="outside upper center", ncols=2)
    if seconds:
        axes[1][0].plot(places, table[seconds], "s-", color="#009e73")
        axes[1][0].set_ylabel("seconds per image")
        axes[1][0].set_ylim(bottom=0)
    axes[-1][0].set_xticks(places, [str(name) for name in table.index], rotation=25, ha="right")
    return figure


def reliability(curves: Mapping[str, pd.DataFrame]) -> Figure:
    """Reliability diagrams: per curve a table with columns confidence, accuracy (0 to 1) and share of pixels."""
    figure, axes = new_figure(3.2 * len(curves), 3.4, 1, len(curves), squeeze=False, sharey=True)
    for place, (title, curve) in zip(axes[0], curves.items(), strict=True):
        place.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle="--", label="perfect")
        place.bar(
            curve["confidence"], curve["share"], width=0.05, color=FAINT, label="share of pixels"
        )
        used = curve[curve["share"] > 0]
        place.plot(used["confidence"], used["accuracy"], "o-", color="#0072b2", label="accuracy")
        place.set_title(title)
        place.set_xlabel("confidence")
        place.set_xlim(0, 1)
        place.set_ylim(0, 1)
    axes[0][0].set_ylabel("accuracy, share")
    axes[0][0].legend(loc="upper left")
    return figure


def scatter_claims(
    measured: Sequence[float],
    claimed: Sequence[float],
    names: Sequence[str],
    x_label: str,
    y_label: str,
) -> Figure:
    """Two rankings against each other: published values on x, measured on y, names beside the points.

    The three are taken by position, whatever index a pandas Series may carry.
    """
    figure, axes = new_figure(6.4, 4.6)
    places = {"x": np.asarray(claimed, dtype=float), "y": np.asarray(measured, dtype=float)}
    table = pd.DataFrame(places, index=list(names))
    for name, row in table.iterrows():
        colour = recipe_colour(str(name).lower())
        axes.plot(row["x"], row["y"], "o", color=colour, markeredgecolor=INK)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.margins(x=0.15, y=0.12)
    _label_points(axes, table, "x", "y")
    return figure
