"""Figures of the book: every function takes measured data or pictures and returns a matplotlib Figure.

`style` sets fonts and colours once; `panels` shows pictures and label maps; `plots` shows numbers with their
intervals; `pipeline` draws the flow of a recipe from the recipe itself, `phases` the thesis's phases with their switches.
"""

from ovsslib.book.figures.attention import attention_map, plot_attention
from ovsslib.book.figures.boundary import boundary_panel
from ovsslib.book.figures.panels import (
    attention_panel,
    feature_panel,
    label_sheet,
    mask_panel,
    mask_rows,
    picture_row,
)
from ovsslib.book.figures.phases import phase_flow
from ovsslib.book.figures.pipeline import pipeline
from ovsslib.book.figures.plots import (
    bars,
    columns,
    cumulative,
    dots,
    heat_map,
    pareto,
    reliability,
    scatter_claims,
    side_by_side,
    slopes,
)
from ovsslib.book.figures.similarity import similarity_map, similarity_panel
from ovsslib.book.figures.style import figure_style

__all__ = [
    "attention_map",
    "attention_panel",
    "bars",
    "boundary_panel",
    "columns",
    "cumulative",
    "dots",
    "feature_panel",
    "figure_style",
    "heat_map",
    "label_sheet",
    "mask_panel",
    "mask_rows",
    "pareto",
    "phase_flow",
    "picture_row",
    "pipeline",
    "plot_attention",
    "reliability",
    "scatter_claims",
    "side_by_side",
    "similarity_map",
    "similarity_panel",
    "slopes",
]
