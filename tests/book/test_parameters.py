"""Parameters of notebooks, as papermill hands them over."""

import pytest

from ovsslib.book.chapter import chapter
from ovsslib.book.parameters import name_list, whole_number
from ovsslib.errors import RecipeError


@pytest.mark.parametrize(
    "given",
    [
        ["sclip", "naclip"],
        ("sclip", "naclip"),
        "sclip,naclip",
        " sclip , naclip,",
        "['sclip', 'naclip']",
        '["sclip", "naclip"]',
        "[sclip, naclip]",
        "('sclip', 'naclip')",
        "('sclip', 'naclip',)",
    ],
)
def test_a_list_however_it_is_given(given):
    assert name_list(given, "recipes") == ["sclip", "naclip"]


def test_one_name_and_names_with_blanks():
    assert name_list("sclip", "recipes") == name_list("['sclip']", "recipes") == ["sclip"]
    assert name_list("CLIPtrase mask, RCS", "switches") == ["CLIPtrase mask", "RCS"]


def test_changes_keep_the_commas_in_their_brackets():
    given = "refine=[pamr,densecrf], labels.logit_scale=50"
    assert name_list(given, "overrides") == ["refine=[pamr,densecrf]", "labels.logit_scale=50"]
    assert name_list("", "o", 0) == name_list(None, "o", 0) == name_list("[]", "o", 0) == []


@pytest.mark.parametrize(
    "given", [3, "", "[]", [], None, "[sclip", "{a: 1}", "[1, 2]", ["sclip", ""], [["sclip"]], True]
)
def test_what_is_no_list_is_refused_with_the_way_to_give_one(given):
    with pytest.raises(
        RecipeError, match=r"'recipes' is a list of at least 1 name, .*-y 'recipes: "
    ):
        name_list(given, "recipes")


def test_two_names_where_two_are_needed():
    with pytest.raises(RecipeError, match="at least 2 names, not 'sclip'"):
        name_list("sclip", "recipes", least=2)


@pytest.mark.parametrize(("given", "number"), [(3, 3), ("3", 3), (None, None), ("None", None)])
def test_numbers_as_numbers_and_as_text(given, number):
    assert whole_number(given, "limit", none=True) == number


@pytest.mark.parametrize("given", [0, "0", -1, 2.5, "2.5", "many", True, [3]])
def test_what_is_no_number_is_refused(given):
    with pytest.raises(RecipeError, match="'limit' is a whole number of at least 1, or None"):
        whole_number(given, "limit", none=True)


def test_a_chapter_takes_text():
    book = chapter("embedded", "labels.logit_scale=50, attention.residual=false", "3", "7")
    assert book.profile.limit == 3 and len(book.dataset) == 3 and book.seed == 7
    assert book.changes == {"labels.logit_scale": 50, "attention.residual": False}
    with pytest.raises(RecipeError, match="limit"):
        chapter("embedded", [], "few")
    with pytest.raises(RecipeError, match="seed"):
        chapter("embedded", [], None, "x")
    with pytest.raises(RecipeError, match="unknown profile"):
        chapter("['embedded']")
