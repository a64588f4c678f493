"""What the command line prints: plain text, tables, notes. Only the first of several processes speaks."""

import os

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table


def stderr() -> Console:
    """Where notes and errors go."""
    return Console(stderr=True, highlight=False)


def one_line(message: object) -> str:
    """A message without line breaks."""
    return " ".join(str(message).split())


def show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    """Print a warning of the library as one line; others are kept quiet."""
    if speaks() and issubclass(category, UserWarning):
        stderr().print(f"[yellow]note: {escape(one_line(message))}[/yellow]", soft_wrap=True)


def speaks() -> bool:
    """Whether this process prints: the first one that torchrun started, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def say(text: object) -> None:
    """Print plain text."""
    if speaks():
        Console(highlight=False).print(str(text), markup=False, soft_wrap=True)


def show(frame: pd.DataFrame, title: str = "", index: bool = True) -> None:
    """Print a data frame as a table, numbers with two digits."""
    if not speaks():
        return
    if title:
        say(title)
    table = Table()
    if index:
        table.add_column(str(frame.index.name or ""))
    for column in frame.columns:
        numeric = pd.api.types.is_numeric_dtype(frame[column])
        table.add_column(escape(str(column)), justify="right" if numeric else "left")
    for label, row in zip(frame.index, frame.itertuples(index=False), strict=True):
        cells = [f"{value:.2f}" if isinstance(value, float) else str(value) for value in row]
        table.add_row(*(escape(cell) for cell in ([str(label), *cells] if index else cells)))
    # A pipe has no width; there a table is as wide as it is.
    console = Console(highlight=False)
    Console(highlight=False, width=console.width if console.is_terminal else 1000).print(table)
