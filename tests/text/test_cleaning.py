"""Cleaning and comparing single words."""

import pytest

from ovsslib.errors import WordsError, did_you_mean
from ovsslib.text.cleaning import (
    as_list,
    clean_word,
    clean_words,
    refuse_repeated,
    word_key,
)


def test_cleaning_keeps_spelling_and_drops_blanks():
    assert clean_word("  Polar \n bear ") == "Polar bear"
    assert word_key(" Polar  Bear") == "polar bear"


def test_synonyms_in_every_form():
    assert as_list(None, "dog") == []
    assert as_list("puppy, hound ,", "dog") == ["puppy", " hound "]
    assert as_list(("puppy",), "dog") == ["puppy"]
    with pytest.raises(WordsError, match="synonyms of 'dog'.*not 3"):
        as_list(3, "dog")


def test_repeats_inside_a_class():
    with pytest.warns(UserWarning, match="class 'dog': dropped 'Hound'"):
        assert clean_words(["dog", "hound", "Hound"], "dog") == ("dog", "hound")
    with pytest.warns(UserWarning, match="dropped 'dog'"):
        clean_words(["dog", "dog"], "dog")


def test_repeats_between_classes_are_all_listed():
    refuse_repeated(["dog", "cat"], "mine")
    with pytest.raises(WordsError, match="'mine' names more than one class 'Dog', 'cat'"):
        refuse_repeated(["dog", "cat", "Dog", "cat"], "mine")


def test_hint():
    assert did_you_mean("voc12", ["voc21", "ade"]) == " (did you mean 'voc21'?); known: voc21, ade"
    assert did_you_mean("xyz", ["voc21"]) == "; known: voc21"
