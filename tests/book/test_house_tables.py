"""Tables of pages: one row of headings, units in it, numbers aligned, every verdict with its heading."""

import pandas as pd
import pytest
from bs4 import BeautifulSoup
from house_tables import MANY_ROWS, UNIT, mend, mend_tables


def mended(frame: pd.DataFrame) -> BeautifulSoup:
    return BeautifulSoup(
        mend_tables(f"<p>before</p>{frame._repr_html_()}<p>after</p>"), "html.parser"
    )


def cells(soup: BeautifulSoup, part: str) -> list[list[str]]:
    rows = soup.find(part).find_all("tr")
    return [[cell.get_text() for cell in row.find_all(["td", "th"])] for row in rows]


@pytest.fixture
def measured() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "mIoU": ["8.30 % [7.37, 9.67]", "64.00 % (too few images for an interval)"],
            "against clip": ["", "+55.68 points [+54.12, +56.74]"],
            "verdict": ["", "better"],
        },
        index=pd.Index(["clip", "maskclip"], name="scenes, 400 images"),
    )


def test_the_name_of_the_index_moves_into_the_one_row_of_headings(measured):
    soup = mended(measured)
    heads = cells(soup, "thead")
    assert heads == [["scenes, 400 images", "mIoU, %", "against clip, points", "verdict"]]
    assert not [cell for cell in soup.find_all("th") if not cell.get_text(strip=True)]
    assert soup.get_text().startswith("before") and soup.get_text().endswith("after")


def test_units_leave_the_cells_and_numbers_stay(measured):
    rows = cells(mended(measured), "tbody")
    assert rows[0] == ["clip", "8.30 [7.37, 9.67]", "", ""]
    assert rows[1][1:] == [
        "64.00 (too few images for an interval)", "+55.68 [+54.12, +56.74]", "better",
    ]  # fmt: skip


def test_numbers_are_aligned_and_unbroken_but_for_long_remarks(measured):
    soup = mended(measured)
    level = [row.find_all("td")[0]["class"] for row in soup.tbody.find_all("tr")]
    assert level == [["number", "short"], ["number", "short"]]
    words = mended(pd.DataFrame({"what": ["a", "b"], "n": [1, 20]}, index=["x", "y"]))
    heads = {th.get_text(): th.get("class") for th in words.thead.find_all("th")}
    assert heads == {"what": None, "n": ["number"]}
    long = pd.DataFrame({"n": ["1.00 (" + "w" * 40 + ")"]}, index=["x"])
    assert mended(long).tbody.td["class"] == ["number"]


def test_an_index_that_only_counts_goes_and_a_named_one_stays():
    frame = pd.DataFrame({"reason": ["a", "b"], "claims": [3, 4]})
    assert cells(mended(frame), "tbody") == [["a", "3"], ["b", "4"]]
    assert cells(mended(frame), "thead") == [["reason", "claims"]]
    other = frame.set_axis([1, 0], axis=0)
    assert cells(mended(other), "tbody")[0] == ["1", "a", "3"]
    named = frame.rename_axis("place")
    assert cells(mended(named), "tbody")[0] == ["0", "a", "3"]


def test_different_units_and_units_already_said_are_left():
    frame = pd.DataFrame({"a": ["1 s", "2 %"], "b, %": ["3 %", "4 %"], "c": ["0.57 GB, fits", ""]})
    soup = mended(frame.set_axis(["x", "y"], axis=0))
    assert cells(soup, "thead") == [["", "a", "b, %", "c"]]
    assert [row[1:] for row in cells(soup, "tbody")] == [
        ["1 s", "3", "0.57 GB, fits"],
        ["2 %", "4", ""],
    ]
    assert soup.thead.find("td").get_text() == ""  # an empty heading is none


@pytest.mark.parametrize(
    "text", ["+5\N{EN DASH}8 points (expected)", "22.77 % (projected)", "9.2 s"]
)
def test_claims_have_units_too(text):
    assert UNIT.fullmatch(text)
    assert not UNIT.fullmatch(f"about {text}")


def test_cells_of_a_table_with_verdicts_know_their_heading(measured):
    soup = mended(measured)
    assert "stacked" in soup.table["class"]
    last = soup.tbody.find_all("tr")[1].find_all("td")[-1]
    assert (last["data-label"], last.get_text()) == ("verdict", "better")
    assert {th["scope"] for th in soup.tbody.find_all("th")} == {"row"}
    assert {" ".join(th["class"]) for th in soup.tbody.find_all("th")} == {"short"}
    slim = measured[["verdict"]]
    assert "stacked" in mended(slim).table["class"]
    assert "stacked" not in mended(slim.rename(columns={"verdict": "group"})).table["class"]


def test_two_levels_of_an_index_keep_their_names_and_their_spans():
    frame = pd.DataFrame(
        {"precision": ["13.4 [8.9, 18.0]", "15.0 [9.4, 20.3]"]},
        index=pd.MultiIndex.from_tuples([("clip", "a"), ("clip", "b")], names=["recipe", "mask"]),
    )
    soup = mended(frame)
    assert cells(soup, "thead") == [["recipe", "mask", "precision"]]
    assert soup.tbody.th["rowspan"] == "2"
    assert [row.td["class"] for row in soup.tbody.find_all("tr")] == [["number", "short"]] * 2


def test_headings_of_two_levels_are_left_as_they_are():
    frame = pd.DataFrame([[1, 2]], columns=pd.MultiIndex.from_tuples([("a", "x"), ("a", "y")]))
    html = frame.to_html(border=1)
    assert mend(html) == html


def test_only_long_tables_are_called_so():
    frame = pd.DataFrame({"n": range(MANY_ROWS)}, index=[f"r{n}" for n in range(MANY_ROWS)])
    assert "long" in mended(frame).table["class"]
    assert "long" not in mended(frame.head(MANY_ROWS - 1)).table["class"]


def test_the_name_of_the_columns_gives_way_to_that_of_the_index():
    frame = pd.DataFrame({"mIoU": ["89.9 %"]}, index=pd.Index(["14x14"], name="grid"))
    frame.columns.name = "metric"
    assert cells(mended(frame), "thead") == [["grid", "mIoU, %"]]


def test_wide_tables_break_before_intervals_and_are_stacked_on_phones():
    narrow = pd.DataFrame({"mIoU": ["66.2 [62.2, 70.5]"]}, index=["sclip"])
    soup = mended(narrow)
    assert not {"wide", "stacked"} & set(soup.table["class"])
    assert soup.tbody.td.get_text() == "66.2 [62.2, 70.5]" and "short" in soup.tbody.td["class"]
    middling = pd.concat([narrow.add_prefix(f"{n} ") for n in range(3)], axis=1)
    assert (
        "stacked" in mended(middling).table["class"]
        and "wide" not in mended(middling).table["class"]
    )
    wide = pd.concat([narrow.add_prefix(f"{n} ") for n in range(6)], axis=1)
    soup = mended(wide)
    assert {"wide", "stacked"} <= set(soup.table["class"])
    assert [span.get_text() for span in soup.tbody.td.find_all("span")] == ["66.2", "[62.2, 70.5]"]
    assert soup.tbody.td.get_text() == "66.2 [62.2, 70.5]" and soup.tbody.td["class"] == ["number"]
    many = pd.concat([narrow.add_prefix(f"{n} ") for n in range(12)], axis=1)
    assert "wide" in mended(many).table["class"] and "stacked" not in mended(many).table["class"]
