"""The places of the sources' tables and figures exist, and none is forgotten or given twice."""

import importlib.util
import re
from collections import Counter

import pytest
from book_texts import ROOT, cells
from marked_parts import refilled

from ovsslib.study.claims import claims_of, load_claims
from ovsslib.study.sources import published, slug

TABLES = {
    "thesis": [f"4.{n}" for n in range(1, 10)],
    "itaclip": [str(n) for n in range(1, 12)],
}
FIGURES = {
    "thesis": [*(f"3.{n}" for n in range(1, 9)), *(f"4.{n}" for n in range(1, 5))],
    "itaclip": [str(n) for n in range(1, 6)],
}


def headings(chapter: str) -> list[str]:
    """Headings of a notebook, without their marks."""
    texts = [
        c.source for c in cells(ROOT / f"notebooks/{chapter}.ipynb") if c.cell_type == "markdown"
    ]
    return re.findall(r"^#+ (.+)$", "\n".join(texts), flags=re.MULTILINE)


def captions(chapter: str) -> dict[str, str]:
    """Names of a notebook's figures, with their captions."""
    found = [
        cell.metadata.get("mystnb", {}).get("figure")
        for cell in cells(ROOT / f"notebooks/{chapter}.ipynb")
    ]
    return {one["name"]: one["caption"] for one in found if one}


@pytest.mark.parametrize(("kind", "numbers"), [("table", TABLES), ("figure", FIGURES)])
def test_every_table_and_figure_occurs_once(kind, numbers):
    found = Counter((one.source, one.number) for one in published() if one.kind == kind)
    assert found == Counter((source, n) for source, own in numbers.items() for n in own)


@pytest.mark.parametrize("one", published(), ids=lambda one: f"{one.source}-{one.kind}{one.number}")
def test_every_place_is_there(one):
    assert bool(one.section) != bool(one.figure)
    if one.section:
        same = [h for h in headings(one.chapter) if slug(h) == slug(one.section)]
        assert same == [one.section], f"{one.chapter} has the headings {headings(one.chapter)}"
    else:
        assert one.figure in captions(one.chapter), (
            f"{one.chapter} has {sorted(captions(one.chapter))}"
        )


@pytest.mark.parametrize("one", published(), ids=lambda one: f"{one.source}-{one.kind}{one.number}")
def test_every_place_says_which_number_it_has(one):
    """A caption or heading names the table or figure that it is the counterpart of."""
    told = one.section or captions(one.chapter)[one.figure]
    if one.section and one.number not in told:  # a chapter's introduction names it
        told = cells(ROOT / f"notebooks/{one.chapter}.ipynb")[0].source
    pattern = rf"(?:{one.kind.title()}s?) (?:[\d.]+ and )?{re.escape(one.number)}(?![\d.]*\d)"
    assert re.search(pattern, told), told


def test_every_table_of_the_sources_has_claims_and_the_other_way_round():
    claims = load_claims()
    for source, numbers in TABLES.items():
        own = set(claims[claims["source"] == source]["table"])
        assert {table for table in own if table[0].isdigit()} == set(numbers)
    for one in published():
        if one.kind == "table":
            assert len(claims_of(one.target)) > 0


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("fill_tables", ROOT / "scripts/fill_tables.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


def test_the_page_of_runs_is_made_from_the_claims(script):
    page = (ROOT / "book/settle.md").read_text(encoding="utf-8")
    marks = (script.SETTLE_BEGIN, script.SETTLE_END)
    assert refilled(page, *marks, script.runs()) == page, "run scripts/fill_tables.py"
    assert "book/settle" in (ROOT / "_toc.yml").read_text(encoding="utf-8")


def test_the_page_is_made_from_the_data(script):
    page = (ROOT / "book/where.md").read_text(encoding="utf-8")
    marks = (script.WHERE_BEGIN, script.WHERE_END)
    assert refilled(page, *marks, script.places()) == page, "run scripts/fill_tables.py"
    assert "book/where" in (ROOT / "_toc.yml").read_text(encoding="utf-8")
    for one in published():
        assert f"`{one.command}`" in page and one.anchor in page


def test_headings_are_spelt_as_links_spell_them():
    assert slug("Table 4.1: one step after the other") == "table-41-one-step-after-the-other"
    assert slug("Tables 5 and 6: PAMR, texts") == "tables-5-and-6-pamr-texts"
