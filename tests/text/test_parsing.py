"""How people write words: one set of rules for texts, files, lists, mappings and the command line."""

import warnings

import pytest

from ovsslib.errors import WordsError
from ovsslib.text.cleaning import parse_classes
from ovsslib.text.vocabulary import Vocabulary, background_words

RIGHT = {
    "dog, cat, horse": (("dog",), ("cat",), ("horse",)),
    "dog; cat;horse": (("dog",), ("cat",), ("horse",)),
    "dog,cat": (("dog",), ("cat",)),
    "dog | puppy, cat": (("dog", "puppy"), ("cat",)),
    "dog\ncat; cow": (("dog",), ("cat", "cow")),
    "dog, puppy\r\ncat\r\n": (("dog", "puppy"), ("cat",)),
    "water,river\nsky": (("water", "river"), ("sky",)),
    "a 1,000 euro note, coin": (("a 1,000 euro note",), ("coin",)),
    "Hund, Ba\u0308r, \u732b": (("Hund",), ("Ba\u0308r",), ("\u732b",)),
    "dog,, cat,": (("dog",), ("cat",)),
}


@pytest.mark.parametrize("text", RIGHT)
def test_a_text_and_a_file_of_it_give_the_same_classes(text, tmp_path):
    assert Vocabulary.from_words(text).synonyms == RIGHT[text]
    for name, mark in (("w.txt", ""), ("bom.txt", "\ufeff")):
        (tmp_path / name).write_text(mark + text, encoding="utf-8", newline="")
        assert Vocabulary.from_file(tmp_path / name).synonyms == RIGHT[text]


def test_lists_and_mappings_are_read_like_lines():
    lists = (["water,river", "sky"], [" water ; river", "sky"], ("water|river", "sky"))
    for words in lists:
        assert Vocabulary.from_words(words).synonyms == (("water", "river"), ("sky",))
    for synonyms in ("river", "river; ", ["river"], "water, river"):
        made = Vocabulary.from_words({"water": synonyms, "sky": None})
        assert made.synonyms == (("water", "river"), ("sky",)), synonyms


@pytest.mark.parametrize("text", ["", " ", ",", ";;", "|", "dog\n\ncat"])
def test_nothing_is_no_word(text):
    with pytest.raises(WordsError):
        Vocabulary.from_words(text)


def test_a_file_that_is_not_utf8_says_so(tmp_path):
    (tmp_path / "w.txt").write_bytes("B\xe4r\nHund".encode("latin-1"))
    with pytest.raises(WordsError, match="not UTF-8; save it as UTF-8"):
        Vocabulary.from_file(tmp_path / "w.txt")


def test_background_is_read_alike_everywhere():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        named = Vocabulary.from_words(["dog"], "sclip")
        assert set(named.synonyms[0]) == set(background_words("sclip"))
        for text in ("sky, wall", "sky; wall", "sky | wall", "sky\nwall"):
            assert Vocabulary.from_words(["dog"], text).synonyms[0] == ("sky", "wall")
        assert Vocabulary.from_words(["dog"], "wall").synonyms[0] == ("wall",)
    with pytest.raises(WordsError, match="did you mean 'sclip'"):
        Vocabulary.from_words(["dog"], "sclp")


def test_the_parser_says_which_line_is_empty():
    with pytest.raises(WordsError, match="line 2 is empty"):
        parse_classes("dog\n ,\ncat")
