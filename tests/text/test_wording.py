"""Plain words and plurals of class names, and classes that are asked for by other words."""

import pytest

from ovsslib.errors import RecipeError, WordsError
from ovsslib.recipe import Recipe
from ovsslib.segmenter import Segmenter
from ovsslib.text.auxiliary import auxiliary_texts
from ovsslib.text.prompts import TextSettings
from ovsslib.text.vocabulary import Vocabulary, available
from ovsslib.text.wording import OTHER, asked_as, plain_words, plural


def test_a_plain_word_is_the_head_of_a_name_and_a_material_its_material():
    words = plain_words(Vocabulary.named("scenes"))
    assert words[7:12] == ["brick", "stone", "wall", "wood", "tile"] and words[14] == "person"
    assert "background" not in plain_words(Vocabulary.named("scenes-object"))
    assert plain_words(Vocabulary.from_words(["traffic light", "desk light", "dining table"])) == [
        "traffic light", "desk light", "table",
    ]  # fmt: skip


@pytest.mark.parametrize("name", available())
def test_plain_words_name_one_class_each(name):
    vocabulary = Vocabulary.named(name)
    words = plain_words(vocabulary)
    assert len(set(words)) == len(words) == len(vocabulary) - (vocabulary.background is not None)


@pytest.mark.parametrize(
    ("word", "many"),
    [
        ("dog", "dogs"), ("bus", "buses"), ("bench", "benches"), ("person", "people"), ("sky", "skies"),
        ("monkey", "monkeys"), ("sheep", "sheep"), ("traffic light", "traffic lights"), ("box", "boxes"),
    ],
)  # fmt: skip
def test_plurals(word, many):
    assert plural(word) == many


def test_classes_are_asked_for_by_other_words():
    asked = ["sky, grass", *("person", "hound")]
    vocabulary = Vocabulary.from_words(["person", "dog"], background=["sea"])
    made = asked_as(vocabulary, asked)
    assert made.names == vocabulary.names and made.kinds == vocabulary.kinds
    assert made.synonyms == (("sky", "grass"), ("person",), ("hound",)) and made.background == 0
    more = asked_as(vocabulary, [*asked, "roof", "door, gate"])
    assert more.names == ("background", "person", "dog", OTHER)
    assert more.synonyms[3] == ("roof", "door", "gate")
    assert more.fingerprint != made.fingerprint != vocabulary.fingerprint


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["person"], "1 texts for the 2 classes"),
        (["person", "Person"], "'person' stands for"),
        (["person", "dog", "dog"], "stands for 'dog' and 'other words'"),
        (["person", " , "], "holds no word"),
    ],
)
def test_words_that_cannot_stand_for_the_classes_are_refused(words, problem):
    with pytest.raises(WordsError, match=problem):
        asked_as(Vocabulary.from_words(["person", "dog"]), words)


def test_a_recipe_asks_shipped_classes_by_its_words_and_leaves_free_words_alone():
    names = Vocabulary.named("scenes-things").names
    settings = TextSettings(words=[f"little {name}" for name in names])
    assert settings.vocabulary("scenes-things").queries[0] == "little person"
    opened = Vocabulary.named("scenes-things", names="synonyms")
    assert settings.vocabulary(opened).queries[1] == "little dog"
    free = Vocabulary.from_words(["zebra"])
    assert settings.vocabulary(free) is free
    with pytest.raises(RecipeError, match="give a list of texts"):
        TextSettings(words="dog")
    recipe = Recipe.named("sclip").but({"text.words": ["a", "b"]})
    assert Recipe.from_yaml(recipe.to_yaml())["text"].words == ("a", "b")


def test_auxiliary_texts_are_those_of_the_words_that_are_asked(tiny_backbone):
    vocabulary = Vocabulary.named("scenes-things")
    words = list(vocabulary.names)
    words[1] = "qqq"
    asked = asked_as(vocabulary, [*words, "roof"])
    texts = auxiliary_texts(asked, "definitions", skip_missing=True)
    assert texts[1] is None and texts[0] == auxiliary_texts(vocabulary, "definitions")[0]
    recipe = Recipe.named("itaclip", "scenes-things").but({"text.prompts": "single"})
    assert len(Segmenter(tiny_backbone, recipe).text(asked).features) == len(words) + 1
