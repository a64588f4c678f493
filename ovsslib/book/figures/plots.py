"""Plots of measured numbers: every accuracy with its 95% interval, claims in another mark, never mixed.

Drawn by seaborn. Intervals come with the numbers (they are paired, or made by the jackknife), so seaborn is handed each
value with its ends and makes none itself.
"""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from matplotlib.transforms import Bbox

from ovsslib.book.figures.style import FAINT, INK, new_figure

Interval = tuple[float, float]
MEASURED, CLAIMED, TIME = "#0072b2", "#d55e00", "#009e73"
"""Colours of what was measured, what was only claimed, and of seconds."""
_LONGEST = 34  # letters of a row's name before it is broken


def _with_ends(table: pd.DataFrame, value: str, low: str, high: str) -> pd.DataFrame:
    """Columns place (0, 1, ...) and number: of each row the value, then both ends of its interval."""
    numbers = table[[value, low, high]].to_numpy(float)
    places = np.repeat(np.arange(len(table)), 3)
    return pd.DataFrame({"place": places, "number": numbers.ravel()}).dropna()


def _intervals(axes: Axes, table: pd.DataFrame, columns: tuple[str, str, str], **more) -> None:
    """Points with their intervals, one place for each row: across (orient "h") or upright (orient "v")."""
    across = more.pop("orient") == "h"
    sns.pointplot(
        _with_ends(table, *columns),
        x="number" if across else "place",
        y="place" if across else "number",
        order=list(range(len(table))),
        orient="h" if across else "v",
        estimator=lambda three: three.iloc[0],
        errorbar=lambda three: (three.iloc[1], three.iloc[2]),
        color=MEASURED,
        markersize=5,
        err_kws={"linewidth": 1.4},
        ax=axes,
        **more,
    )


def _measured_and_claimed(figure: Figure, claimed: str | None, line: Any = "none") -> None:
    """One legend for both marks, above the plot."""
    marks: dict[str, Any] = {
        "color": MEASURED,
        "marker": "o",
        "markersize": 5,
        "label": "measured, 95% interval",
    }
    handles = [Line2D([], [], linestyle=line.replace("--", "-"), **marks)]
    if claimed:
        hollow: dict[str, Any] = {
            "color": CLAIMED,
            "marker": "D",
            "markerfacecolor": "white",
            "label": claimed,
        }
        handles.append(Line2D([], [], linestyle=line, **hollow))
    figure.legend(handles=handles, loc="outside upper center", ncols=2)


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
    places = np.arange(count)
    _intervals(axes, table, (value, low, high), orient="h", linestyle="none", capsize=0.25)
    if claimed is not None and table[claimed].notna().any():
        axes.plot(table[claimed], places, "D", markerfacecolor="white", markeredgecolor=CLAIMED)
    if reference is not None:
        axes.axvline(reference, color=INK, linewidth=0.8, linestyle="--")
    axes.set_yticks(places, [textwrap.fill(str(name), _LONGEST) for name in table.index])
    axes.set_ylim(count - 0.4, -0.6)
    axes.set(xlabel=label, ylabel="")
    axes.grid(axis="y", visible=False)
    if claimed is not None:
        _measured_and_claimed(figure, claimed_label if table[claimed].notna().any() else None)
    return figure


def bars(
    values: Mapping[str, float], label: str, colours: Mapping[str, str] | None = None
) -> Figure:
    """Horizontal bars of plain numbers (shares, times), labelled with their values."""
    figure, axes = new_figure(7.0, 0.34 * len(values) + 1.0)
    names = list(values)
    tint = [(colours or {}).get(name, MEASURED) for name in names]
    shared: dict[str, Any] = {"hue": names, "palette": tint, "saturation": 1, "legend": False}
    sns.barplot(x=[float(values[name]) for name in names], y=names, orient="h", ax=axes, **shared)
    for drawn in axes.containers:
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
            place.errorbar(values, places, xerr=spread, fmt="o", color=MEASURED, capsize=3)
            place.margins(x=0.15)
        else:
            drawn = place.barh(places, values, color=MEASURED)
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
    colours = [tint.get(groups.get(name, ""), MEASURED) for name in values]
    shared: dict[str, Any] = {"hue": places, "palette": colours, "saturation": 1, "legend": False}
    sns.barplot(x=places, y=numbers, ax=axes, **shared)
    axes.set_xticks(places, list(values), rotation=90, fontsize=9)
    axes.set_xlim(-0.7, len(values) - 0.3)
    axes.set_ylabel(label)
    axes.grid(axis="x", visible=False)
    if kinds:
        handles = [Patch(facecolor=tint[kind], label=kind) for kind in kinds if kind in tint]
        axes.legend(handles=handles, loc="upper right")
    return figure


_WIDE = 15  # costs that span more than this factor are drawn on a logarithmic axis


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
    group: str | None = None,
) -> Figure:
    """Accuracy against cost, with intervals, names beside the points and the frontier of the undominated ones.

    `x_limits`: ends of the cost axis, to give several figures the same one; None: what the points need. `ceiling`: name
    and accuracy of something that the points are not compared with, drawn as a dotted line. `group`: column whose values
    have a colour and a mark each; None: all points look alike.
    """
    figure, axes = new_figure(7.0, 4.4)
    table = table.dropna(subset=[x, y]).sort_values(x)
    spread = np.abs(np.stack([table[y] - table[low], table[high] - table[y]]).astype(float))
    axes.errorbar(
        table[x], table[y], yerr=spread, fmt="none", ecolor="#999999", capsize=3, linewidth=1
    )
    best = table[y].cummax()
    front = table[best.gt(best.shift(fill_value=-np.inf))]
    frontier: dict[str, Any] = {
        "color": INK,
        "linewidth": 1,
        "linestyle": "--",
        "label": "frontier",
    }
    sns.lineplot(front, x=x, y=y, estimator=None, sort=False, ax=axes, **frontier)
    looks: dict[str, Any] = {"color": MEASURED}
    if group is not None:
        looks = {"hue": group, "style": group, "palette": "colorblind"}
        looks["hue_order"] = looks["style_order"] = list(dict.fromkeys(table[group].sort_values()))
    sns.scatterplot(table, x=x, y=y, edgecolor=INK, s=60, zorder=3, ax=axes, **looks)
    if ceiling is not None:
        axes.axhline(ceiling[1], color=CLAIMED, linewidth=1.2, linestyle=":", label=ceiling[0])
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.margins(x=0.15, y=0.12)
    if x_limits is not None:
        axes.set_xlim(*x_limits)
    elif len(table) and table[x].min() > 0 and table[x].max() > _WIDE * table[x].min():
        axes.set_xscale("log")  # else the cheap ones pile up at the left
        # Plain numbers at 1, 2 and 5: most readers of a cost do not think in powers of ten.
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda cost, _: f"{cost:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    if axes.get_legend() is not None:  # seaborn's own
        axes.get_legend().remove()
    if ceiling is None and group is None:
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
    boxes = [Bbox.from_bounds(h - radius, v - radius, 2 * radius, 2 * radius) for h, v in points]
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
            if (inside and box.count_overlaps(boxes) == 0) or (right, up, end) == places[-1]:
                break
            label.remove()
        boxes.append(box)


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
    _intervals(
        top, table, (value, low, high), orient="v", linestyle="-", linewidth=1.5, capsize=0.08
    )
    claims = "claimed (other data set and model)" if claimed is not None else None
    if claimed is not None:
        top.plot(places, table[claimed], "D--", color=CLAIMED, markerfacecolor="white")
    top.set(xlabel="", ylabel=label)
    _measured_and_claimed(figure, claims, "--")
    if seconds:
        times: dict[str, Any] = {
            "marker": "s",
            "markeredgecolor": TIME,
            "color": TIME,
            "ax": axes[1][0],
        }
        sns.lineplot(x=places, y=table[seconds].to_numpy(float), **times)
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
        bins = curve[curve["share"] > 0]
        shown: dict[str, Any] = {
            "marker": "o",
            "markeredgecolor": MEASURED,
            "color": MEASURED,
            "label": "accuracy",
        }
        sns.lineplot(bins, x="confidence", y="accuracy", ax=place, legend=False, **shown)
        place.set_title(title)
        place.set(xlabel="confidence", ylabel="")
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
    for _, row in table.iterrows():
        axes.plot(row["x"], row["y"], "o", color=MEASURED, markeredgecolor=INK)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.margins(x=0.15, y=0.12)
    _label_points(axes, table, "x", "y")
    return figure


def slopes(
    left: Sequence[float],
    right: Sequence[float],
    names: Sequence[str],
    left_label: str,
    right_label: str,
) -> Figure:
    """Two rankings of the same entries side by side, the highest value on top, a line for each entry.

    A line that rises to the right has a better place there, one that falls a worse one. Names stand at both ends, with
    the values; entries of one value share their place.

    Args:
        left, right: the values that rank the entries, taken by position; entries without both are left out.
        names: of the entries.
    """
    table = pd.DataFrame({"left": np.asarray(left, float), "right": np.asarray(right, float)})
    names = list(names)
    table = table.dropna()
    ranks = table.rank(ascending=False)
    moves = np.sign(ranks["left"] - ranks["right"]).map({1.0: "rises", -1.0: "falls", 0.0: "stays"})
    ends = pd.concat(
        [pd.DataFrame({"side": n, "rank": ranks[s]}) for n, s in enumerate(ranks)]
    ).assign(entry=lambda rows: rows.index, move=lambda rows: moves.loc[rows.index].to_numpy())
    figure, axes = new_figure(7.0, 0.32 * len(table) + 1.0)
    tints = {"rises": MEASURED, "falls": CLAIMED, "stays": "#777777"}
    sns.lineplot(
        ends, x="side", y="rank", units="entry", hue="move", palette=tints, estimator=None,
        marker="o", markeredgecolor="none", hue_order=[m for m in tints if (moves == m).any()], ax=axes,
    )  # fmt: skip
    for side, place, end in (("left", 0, "right"), ("right", 1, "left")):
        for rank, rows in table.groupby(ranks[side]):
            text = ", ".join(f"{names[row]} {table[side][row]:.1f}" for row in rows.index)
            axes.annotate(
                text, (place, rank), xytext=(-8 if place == 0 else 8, 0), ha=end, va="center",
                textcoords="offset points", fontsize=9,
            )  # fmt: skip
    axes.set_xlim(-1.1, 2.1)
    axes.set_ylim(len(table) + 0.6, 0.4)
    axes.set_xticks([0, 1], [textwrap.fill(label, 24) for label in (left_label, right_label)])
    axes.set(xlabel="", ylabel="", yticks=[])
    axes.tick_params(axis="x", length=0)
    axes.spines[:].set_visible(False)
    axes.grid(visible=False)
    axes.legend(title="", loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    return figure


def heat_map(
    table: pd.DataFrame, label: str, centre: float | None = None, number: str = ".1f"
) -> Figure:
    """A table of numbers as colours, each with its number: rows and columns are those of the table.

    Args:
        label: what the numbers are, with their unit; at the colour bar.
        centre: the value that is neither of two colours (0, for gains and losses); None: one colour, from light to dark.
        number: how the numbers are written; cells without one stay empty.
    """
    rows, columns = table.shape
    names = [textwrap.fill(str(name), _LONGEST) for name in table.index]
    beside = 0.075 * max(len(line) for name in names for line in name.split("\n"))  # inches
    height = 0.55 + 0.16 * (max(name.count("\n") for name in names))
    figure, axes = new_figure(max(4.0, 1.0 * columns + 2.2 + beside), height * rows + 1.5)
    colours: dict[str, Any] = {"cmap": "cividis"}
    if centre is not None:
        span = float(np.nanmax(np.abs(table.to_numpy(float) - centre))) or 1.0
        colours = {"cmap": "vlag", "vmin": centre - span, "vmax": centre + span}
    sns.heatmap(  # it draws once: names must be broken before, or they leave no room for the cells
        table.astype(float).set_axis(names), annot=True, fmt=number, linewidths=1, linecolor="white", ax=axes,
        cbar_kws={"label": label}, annot_kws={"size": 9}, **colours,
    )  # fmt: skip
    axes.set(xlabel=table.columns.name or "", ylabel=table.index.name or "")
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.set_yticks(axes.get_yticks(), names, rotation=0)
    columns_fit = max(len(str(name)) for name in table.columns) <= 10
    ends = {} if columns_fit else {"rotation": 25, "ha": "right"}
    axes.set_xticks(axes.get_xticks(), [str(name) for name in table.columns], **ends)
    return figure
