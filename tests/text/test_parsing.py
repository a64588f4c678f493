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


@pytest.mark.parametrize(
    "content",
    [
        "# my classes\ndog, puppy\ncat\n",
        "# my classes\n\ndog, puppy\n# no pet\ncat",
        "0: dog, puppy\n1: cat",
        "1 dog, puppy\n2 cat\n",
        "0,dog, puppy\n1,cat\n",
        "1. dog, puppy\n2. cat",
        "- dog, puppy\n- cat",
        '"dog", \'puppy\'\n"cat"\n',
    ],
)
def test_marks_of_a_file_are_no_words(content, tmp_path):
    (tmp_path / "w.names").write_text(content)
    assert Vocabulary.from_file(tmp_path / "w.names").synonyms == (("dog", "puppy"), ("cat",))


def test_numbers_and_dashes_of_words_stay(tmp_path):
    for content in (
        "2 dogs\n3 dogs",
        "1 dog\n1 cat",
        "0 dog\ncat",
        "t-shirt\nx-ray",
        "7 up\n- cat",
    ):
        (tmp_path / "w.txt").write_text(content)
        expected = tuple((line,) for line in content.split("\n"))
        assert Vocabulary.from_file(tmp_path / "w.txt").synonyms == expected


def test_an_empty_line_is_told_by_its_place_in_the_file(tmp_path):
    (tmp_path / "w.txt").write_text("# classes\ndog\n\ncat\n")
    with pytest.raises(WordsError, match="line 3 is empty"):
        Vocabulary.from_file(tmp_path / "w.txt")


def test_pasted_lists(tmp_path):
    for text in ('"dog", "cat"', "['dog', 'cat']", '["dog", "cat"]', "[dog, cat]"):
        assert Vocabulary.from_words(text).names == ("dog", "cat")
    (tmp_path / "w.json").write_text('["dog", "cat"]')
    assert Vocabulary.from_file(tmp_path / "w.json").names == ("dog", "cat")


def test_words_that_would_be_misread(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.txt").write_text("dog\ncat\n")
    with pytest.raises(WordsError, match=r"'w.txt' is a file.*Vocabulary.from_file\('w.txt'\)"):
        Vocabulary.from_words("w.txt")
    with pytest.raises(WordsError, match="'w.txt' is a file"):
        Vocabulary.from_words(["dog"], "w.txt")
    with pytest.raises(WordsError, match=r"a set has no order.*\['cat', 'dog'\]"):
        Vocabulary.from_words({"dog", "cat"})
    for background in (True, 0, {"sky": 1}):
        with pytest.raises(WordsError, match="background=.*give None, 'auto'"):
            Vocabulary.from_words(["dog"], background)
    with pytest.raises(WordsError, match=r"all background words \(dog\) are among the words"):
        Vocabulary.from_words(["Dog"], "dog")
    with pytest.raises(WordsError, match="not UTF-8; set the terminal"):
        Vocabulary.from_words(["caf\udcc3\udca9"])


def test_names_of_sets_are_read_in_any_case():
    usual = Vocabulary.from_words(["dog"], "sclip").synonyms
    for text in ("SCLIP", " sclip ", "Auto", "auto "):
        assert Vocabulary.from_words(["dog"], text).synonyms == usual
