"""Where the book's text is: pages and notebooks, for the tests that read them."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = [*sorted((ROOT / "book").glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]


@cache
def cells(path: Path) -> tuple[nbformat.NotebookNode, ...]:
    """Cells of a notebook, read once."""
    return tuple(nbformat.read(path, as_version=4).cells)


def markdown() -> Iterator[tuple[str, str]]:
    """Every page and every markdown cell: (file name, text)."""
    for page in PAGES:
        yield page.name, page.read_text(encoding="utf-8")
    for path in NOTEBOOKS:
        for cell in cells(path):
            if cell.cell_type == "markdown":
                yield path.name, cell.source
