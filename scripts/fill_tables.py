"""Write the table of recipes into README.md and book/recipes.csv, from the recipes themselves, and the tables of the
page "Where to find it" from data/sources.yaml, and of the page "Settle a claim" from the claims.

python scripts/fill_tables.py
"""

import csv
import io
from pathlib import Path

from marked_parts import refill

from ovsslib.recipe import Recipe, recipe_names
from ovsslib.study.settling import settling
from ovsslib.study.sources import KINDS, Published, published

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- recipes: begin (scripts/fill_tables.py) -->", "<!-- recipes: end -->"
SETTLE_BEGIN, SETTLE_END = "<!-- runs: begin (scripts/fill_tables.py) -->", "<!-- runs: end -->"
WHERE_BEGIN, WHERE_END = "<!-- places: begin (scripts/fill_tables.py) -->", "<!-- places: end -->"
GROUPS = {
    "clip": "CLIP alone",
    "guide": "With a self-supervised second model",
    "masks": "With masks of a segmenter",
}


def table() -> str:
    """Markdown: one table per group of methods, then the recipes of the thesis and this project's own."""
    recipes = [Recipe.named(name) for name in recipe_names()]
    thesis = [recipe for recipe in recipes if recipe.name.startswith("thesis-")]
    ours = [recipe for recipe in recipes if recipe.name.startswith("ovss-")]
    parts = []
    for group, title in GROUPS.items():
        rows = [r for r in recipes if r.group == group and r not in thesis + ours]
        parts.append(_rows(title, sorted(rows, key=lambda r: (r.year or 0, r.name))))
    return "\n\n".join(
        [*parts, _rows("The thesis's phases", thesis), _rows("This project's own", ours)]
    )


def _rows(title: str, recipes: list[Recipe]) -> str:
    lines = [f"{title}:", "", "| recipe | year | what it is |", "|---|---|---|"]
    lines += [f"| `{r.name}` | {r.year or ''} | {r.summary} |" for r in recipes]
    return "\n".join(lines)


def as_csv() -> str:
    """All recipes as CSV: name, year, group, licence of the released code, citation keys, summary."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["recipe", "year", "group", "licence", "source", "summary"])
    for name in recipe_names():
        r = Recipe.named(name)
        writer.writerow([r.name, r.year or "", r.group, r.licence, r.source, r.summary])
    return out.getvalue()


def places() -> str:
    """Markdown: per source its tables and its figures, each with a link to the place and the command."""
    parts = []
    for source in dict.fromkeys(entry.source for entry in published()):
        for kind in KINDS:
            rows = [entry for entry in published() if (entry.source, entry.kind) == (source, kind)]
            first = rows[0]
            title = first.source_title[0].upper() + first.source_title[1:]
            lines = [f"## {title}: {kind}s", "", f"Numbered as in {{cite}}`{first.key}`.", ""]
            lines += [f"| {kind} | what it is | chapter | command |", "|---|---|---|---|"]
            parts.append("\n".join([*lines, *map(_place, rows)]))
    return "\n\n".join(parts)


def _place(entry: Published) -> str:
    page = f"../notebooks/{entry.chapter}"
    # A figure is found by its name, a section by the heading's own anchor.
    link = f"{{ref}}`{entry.title} <{entry.figure}>`"
    if entry.section:
        link = f"[{entry.title}]({page}.ipynb#{entry.anchor})"
    return f"| {entry.kind.title()} {entry.number} | {link} | {{doc}}`{page}` | `{entry.command}` |"


def runs() -> str:
    """Markdown: per data set the claims that a run would settle, its hours, and its profile."""
    lines = [
        "| data set | images | claims | evaluations | encoder forwards an image | time |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, row in settling().iterrows():
        minutes = max(1, round(60 * row["hours"]))
        hours = f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
        lines.append(
            f"| `{name}` | {row['images']} | {row['claims']} | {row['evaluations']} | "
            f"{row['forwards']} | {hours} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    readme = ROOT / "README.md"
    refill(readme, BEGIN, END, table())
    (ROOT / "book/recipes.csv").write_text(as_csv(), encoding="utf-8")
    refill(ROOT / "book/where.md", WHERE_BEGIN, WHERE_END, places())
    refill(ROOT / "book/settle.md", SETTLE_BEGIN, SETTLE_END, runs())
