"""Write the table of recipes into README.md and book/recipes.csv, from the recipes themselves.

python scripts/fill_tables.py
"""

import csv
import io
import re
from pathlib import Path

from ovsslib.recipe import Recipe, recipe_names

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- recipes: begin (scripts/fill_tables.py) -->", "<!-- recipes: end -->"
GROUPS = {
    "clip": "CLIP alone",
    "guide": "With a self-supervised second model",
    "masks": "With masks of a segmenter",
}


def table() -> str:
    """Markdown: one table per group of methods, then the recipes of the thesis."""
    known = [Recipe.named(name) for name in recipe_names()]
    thesis = [recipe for recipe in known if recipe.name.startswith("thesis-")]
    parts = []
    for group, title in GROUPS.items():
        rows = [r for r in known if r.group == group and r not in thesis]
        parts.append(_rows(title, sorted(rows, key=lambda r: (r.year or 0, r.name))))
    return "\n\n".join([*parts, _rows("The thesis's phases", thesis)])


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


def filled(readme: str) -> str:
    """README.md with the table of this checkout's recipes."""
    found = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", flags=re.DOTALL)
    assert found.search(readme), f"README.md has no line {BEGIN}"
    return found.sub(lambda _: f"{BEGIN}\n{table()}\n{END}", readme)


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(filled(readme.read_text(encoding="utf-8")), encoding="utf-8")
    (ROOT / "book/recipes.csv").write_text(as_csv(), encoding="utf-8")
