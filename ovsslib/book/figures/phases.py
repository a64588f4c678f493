"""The thesis's flow by phases, with the switches of its configuration dictionary (thesis, Figure 3.8).

Steps stand in the order in which the segmenter runs them; which are on is read from a recipe.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import yaml
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch

from ovsslib import paths
from ovsslib.book.figures.style import INK, new_figure
from ovsslib.recipe import POINTS, Recipe, stages

PHASES = {
    "baseline": "#e8e8e8", "phase 1": "#bcd7f0", "phase 2A": "#bfe3d4", "phase 2B": "#f6d7a7", "phase 2C": "#f3c9de",
}  # fmt: skip
"""Phases of the thesis and their colours."""
# Phase and title of each switchable stage, and of the steps that are always there.
_STAGES = {
    "upsampling": ("phase 1", "LoftUp"), "feature_rcs": ("phase 1", "RCS"), "feedback": ("phase 1", "SFR"),
    "densecrf": ("phase 1", "DenseCRF"), "local_mask": ("phase 2A", "local mask"),
    "regions": ("phase 2A", "regions"), "calibration": ("phase 2C", "calibration"),
    "hierarchy": ("phase 2C", "hierarchy"),
}  # fmt: skip
_FIXED = {
    "text": ("phase 2B", "prompts"),
    "attention": ("baseline", "last block"),
    "labels": ("baseline", "labels"),
}


@dataclass(frozen=True)
class Step:
    """A box of the figure. key: of the configuration dictionary, "" where there is no switch. on: None without one."""

    title: str
    phase: str
    key: str = ""
    on: bool | None = None
    told: str = ""


def phase_steps(recipe: Recipe) -> list[Step]:
    """The steps of the thesis's system in the order of the flow, with what the recipe switches on."""
    content = yaml.safe_load(paths.data("thesis.yaml").read_text(encoding="utf-8"))
    keys = {stage: key for key, stage in content["switches"].items()}
    prompts = {strategy: name for name, strategy in content["template_strategy"].items()}
    steps = []
    for point in (*POINTS, "probabilities"):
        for name in _stages_at(point):
            if name in _STAGES:
                phase, title = _STAGES[name]
                steps.append(Step(title, phase, keys[name], name in recipe))
            elif name == "text":
                chosen = recipe["text"].prompts
                detail = f"template_strategy: {prompts.get(chosen, chosen)}"
                steps.append(Step("prompts", "phase 2B", told=detail))
            elif name in _FIXED:
                phase, title = _FIXED[name]
                steps.append(Step(title, phase))
    # labels come last; what reads probabilities runs between the scores and them
    return [step for step in steps if step.title != "labels"] + [Step("labels", "baseline")]


def _stages_at(point: str) -> list[str]:
    """Stages of a point in the order of the registry; those that read probabilities have a point of their own."""
    late = {name for name, info in stages().items() if hasattr(info.settings, "on_probabilities")}
    if point == "probabilities":
        return [name for name in stages() if name in late]
    return [name for name, info in stages().items() if info.point == point and name not in late]


def phase_flow(recipe: Recipe, columns: int = 4) -> Figure:
    """Boxes of the thesis's steps, coloured by phase; a switch shows its key and whether the recipe has it on."""
    steps = phase_steps(recipe)
    rows = -(-len(steps) // columns)
    figure, axes = new_figure(8.4, 0.95 * rows + 0.45)
    axes.set_axis_off()
    axes.set_xlim(0, columns)
    axes.set_ylim(-rows, 0)
    for index, step in enumerate(steps):
        row, column = divmod(index, columns)
        _box(axes, step, column, -row)
        if index + 1 < len(steps):
            _arrow(axes, column, -row, last=column == columns - 1)
    _legend(figure, PHASES)
    return figure


def _box(axes, step: Step, left: float, top: float) -> None:
    off = step.on is False
    box = FancyBboxPatch(
        (left + 0.04, top - 0.84), 0.84, 0.74, boxstyle="round,pad=0,rounding_size=0.05",
        facecolor="white" if off else PHASES[step.phase], edgecolor=PHASES[step.phase] if off else INK,
        linewidth=2.0 if off else 0.8,
    )  # fmt: skip
    axes.add_patch(box)
    axes.text(left + 0.09, top - 0.2, step.title, weight="bold", fontsize=9, va="top")
    detail = step.key or step.told or step.phase
    axes.text(left + 0.09, top - 0.47, detail.replace(": ", ":\n"), fontsize=7.5, va="top")
    if step.on is not None:
        _switch(axes, left + 0.09, top - 0.73, step.on)


def _switch(axes, left: float, middle: float, on: bool) -> None:
    """A toggle: knob on the right and filled if it is on, and the word beside it."""
    width, height = 0.15, 0.13
    axes.add_patch(
        FancyBboxPatch(
            (left, middle - height / 2),
            width,
            height,
            boxstyle="round,pad=0,rounding_size=0.06",
            facecolor=INK if on else "white",
            edgecolor=INK,
            linewidth=0.8,
        )
    )
    place = left + (width - 0.035 if on else 0.035)
    axes.plot([place], [middle], "o", markersize=5, color="white" if on else INK)
    axes.text(left + width + 0.04, middle, "on" if on else "off", fontsize=7.5, va="center")


def _arrow(axes, left: float, top: float, last: bool) -> None:
    ends = ((left + 0.88, top - 0.47), (left + 1.04, top - 0.47))
    if last:  # down to the first box of the next row
        middle = left + 0.46
        axes.plot(
            [middle, middle, 0.46], [top - 0.84, top - 0.95, top - 0.95], color=INK, linewidth=1
        )
        ends = ((0.46, top - 0.95), (0.46, top - 1.1))
    axes.add_patch(FancyArrowPatch(*ends, arrowstyle="-|>", mutation_scale=9, color=INK))


def _legend(figure: Figure, colours: Mapping[str, str]) -> None:
    handles = [
        Patch(facecolor=colour, edgecolor=INK, linewidth=0.4, label=name)
        for name, colour in colours.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
