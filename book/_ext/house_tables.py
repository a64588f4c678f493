"""Tables of data frames as a reader wants them: one row of headings with the units, numbers right-aligned and unbroken.

pandas writes a second, mostly empty heading for the name of the index, an index of plain numbers, and the unit in every
cell. Here the name moves into the first heading, the plain numbers go, and a unit that a whole column shares moves into
its heading. What the cells say stays as it is.
"""

import re

from bs4 import BeautifulSoup, Tag

TABLE = re.compile(r'<table border="1" class="dataframe[^"]*">.*?</table>', flags=re.DOTALL)
UNIT = re.compile(
    r"(?P<number>[+\-\N{MINUS SIGN}]?\d[\d.,]*(?:\N{EN DASH}\d[\d.,]*)?)"
    r" (?P<unit>%|points|seconds|s|ms|GB|MB|times|x)(?P<rest>(?: [\[(].*)?)"
)
NUMBER = re.compile(
    r"[+\-\N{MINUS SIGN}]?\d[\d.,]*(?:\N{EN DASH}\d[\d.,]*)?( ?\[.*\]| ?\(.*\)| ?[%a-zA-Z]{1,6})?"
)
LONGEST = 40
"""Characters of a number with its interval or remark that are kept on one line."""
SHORT = 20
"""Characters of a row's name that are kept on one line."""
MANY_ROWS = 25
"""From so many rows on a table can be sorted and filtered (ovsslib.js)."""
WIDE = 88
"""From so many characters side by side on a table is set smaller and its intervals stand below their numbers."""
PHONE = 48
"""From so many characters side by side on a table is stacked on a phone, row by row."""
FEW_COLUMNS = 9
"""A table of more columns scrolls on a phone: stacked, it would be a mile long."""
GAP = 2
"""Characters of space between two columns."""


def mend_tables(body: str) -> str:
    """The HTML of a page with its data frames mended; all else is left as it is."""
    return TABLE.sub(lambda found: mend(found[0]), body)


def mend(html: str) -> str:
    """One table of pandas, in a box that scrolls."""
    soup = BeautifulSoup(html, "html.parser")
    table = soup.table
    del table["border"]
    names = _headings(table)
    rows = table.tbody.find_all("tr") if table.tbody else []
    if not names or not rows:
        return html
    names = _without_plain_numbers(table, names, rows)
    index = len(names) - max(len(row.find_all("td")) for row in rows)
    columns = [[row.find_all("td")[number] for row in rows] for number in range(len(names) - index)]
    for name, cells in zip(names[index:], columns, strict=True):
        _mend_column(name, cells)
    every = [_row_names(rows, number) for number in range(index)] + columns
    _fit(table, [[name, *cells] for name, cells in zip(names, every, strict=True)])
    for name in names:
        if not name.get_text(strip=True):
            name.name = "td"  # an empty heading heads nothing
            del name["scope"]
    _label(table, names[index:], rows)
    if len(rows) >= MANY_ROWS:
        table["class"] = [*table["class"], "long"]
    box = soup.new_tag("div", attrs={"class": "table-scroll", "tabindex": "0"})
    table.wrap(box)
    return str(box)


def _headings(table: Tag) -> list[Tag]:
    """The one row of headings; the index's name, in a row of its own, moves into it. Empty if there are more rows."""
    lines = table.thead.find_all("tr") if table.thead else []
    if len(lines) == 2:
        first, second = (line.find_all("th") for line in lines)
        index = len(_index_of(table))
        if len(first) != len(second) or any(one.get_text(strip=True) for one in second[index:]):
            return []
        for place in range(index):
            name = second[place].get_text(strip=True)
            first[place].string = "" if name in ("row", "index") else name
        lines[1].decompose()
    elif len(lines) != 1:
        return []
    names = lines[0].find_all("th")
    if any(name.has_attr("colspan") for name in names):
        return []
    del lines[0]["style"]
    for name in names:
        name["scope"] = "col"
    return names


def _index_of(table: Tag) -> list[Tag]:
    """Headings of the first row of the body."""
    row = table.tbody.find("tr") if table.tbody else None
    return row.find_all("th") if row else []


def _without_plain_numbers(table: Tag, names: list[Tag], rows: list[Tag]) -> list[Tag]:
    """Takes an index that only counts the rows away."""
    index = [row.find_all("th") for row in rows]
    counted = [[str(number)] for number in range(len(rows))]
    if (
        names[0].get_text(strip=True)
        or [[one.get_text() for one in row] for row in index] != counted
    ):
        return names
    for one in [names[0], *(row[0] for row in index)]:
        one.decompose()
    return names[1:]


def _mend_column(name: Tag, cells: list[Tag]) -> None:
    """Moves the unit that all cells share into the heading, and aligns numbers."""
    texts = [cell.get_text(strip=True) for cell in cells]
    filled = [text for text in texts if text]
    found = [UNIT.fullmatch(text) for text in filled]
    units = {one["unit"] for one in found if one}
    if filled and all(found) and len(units) == 1:
        [unit] = units
        for cell, text in zip(cells, texts, strict=True):
            if text:
                one = UNIT.fullmatch(text)
                cell.string = one["number"] + one["rest"]
        title = name.get_text(strip=True)
        if unit not in title.split(", ")[1:] and not title.endswith(f"({unit})"):
            name.string = f"{title}, {unit}"
    numbers = [cell for cell in cells if NUMBER.fullmatch(cell.get_text(strip=True))]
    for cell in numbers:
        cell["class"] = ["number", *(["short"] if len(cell.get_text()) <= LONGEST else [])]
    if filled and 2 * len(numbers) > len(filled):
        name["class"] = ["number"]
    if name.get_text(strip=True).endswith("verdict"):
        _mark(name.find_parent("table"), "stacked")


def _mark(table: Tag, word: str) -> None:
    if word not in table["class"]:
        table["class"] = [*table["class"], word]


def _row_names(rows: list[Tag], number: int) -> list[Tag]:
    """A column of the index; a name that spans rows stands in the first of them."""
    return [row.find_all("th")[number] for row in rows if len(row.find_all("th")) > number]


def _fit(table: Tag, columns: list[list[Tag]]) -> None:
    """Says of a table whether it is too wide for a phone, or for a page, and breaks its numbers before their intervals.

    columns: of each its heading, then its cells.
    """
    width = sum(_width(cells) + GAP for cells in columns)
    if width >= PHONE and len(columns) <= FEW_COLUMNS and len(columns[0]) <= MANY_ROWS:
        _mark(table, "stacked")
    if width < WIDE:
        return
    _mark(table, "wide")
    for cell in (cell for cells in columns for cell in cells if "short" in cell.get("class", [])):
        number, bracket, rest = cell.get_text().partition(" [")
        if bracket:
            cell["class"] = [one for one in cell["class"] if one != "short"]
            cell.clear()
            for place, text in enumerate((number, "[" + rest)):
                part = BeautifulSoup("", "html.parser").new_tag("span", attrs={"class": "short"})
                part.string = text
                cell.extend([" ", part] if place else [part])


def _width(cells: list[Tag]) -> int:
    """Characters that a column takes at least: its longest cell that is kept on one line, or its longest word."""
    return max(
        len(text) if "short" in cell.get("class", []) else max(map(len, text.split()), default=0)
        for cell in cells
        for text in [cell.get_text(strip=True)]
    )


def _label(table: Tag, names: list[Tag], rows: list[Tag]) -> None:
    """Each cell says which heading it belongs to: where a table with verdicts is stacked, on a phone, that is shown."""
    for row in rows:
        for name, cell in zip(names, row.find_all("td"), strict=False):
            cell["data-label"] = name.get_text(strip=True)
        for heading in row.find_all("th"):
            heading["scope"] = "row"
            if len(heading.get_text()) <= SHORT:
                heading["class"] = ["short"]
