"""Prompt strategies: their sentences, by kind of class, and the checks of the text settings."""

import open_clip
import pytest

from ovsslib.errors import RecipeError, WordsError
from ovsslib.recipe import Recipe, make_settings
from ovsslib.text.prompts import PROMPTS, TextSettings, spoken
from ovsslib.text.vocabulary import KINDS, Vocabulary

COUNTS = {
    "imagenet80": 80,
    "openai7": 7,
    "pixelclip8": 8,
    "car15": 15,
    "clip-surgery85": 85,
    "origami": 1,
    "photo": 1,
    "tagclip85": 85,
    "thesis-top7": 7,
    "thesis-top3": 3,
    "thesis-code-top7": 7,
    "thesis-code-top3": 3,
    "thesis-code-spatial7": 7,
    "single": 1,
    "none": 1,
}


@pytest.mark.parametrize("name", COUNTS)
def test_every_kind_has_the_templates_of_a_plain_strategy(name):
    for kind in KINDS:
        prompts = PROMPTS[name].prompts("otter", kind)
        assert len(prompts) == len(set(prompts)) == COUNTS[name]
        assert all("otter" in prompt and "{}" not in prompt for prompt in prompts)


def test_imagenet_templates_are_open_clips():
    expected = [template("otter") for template in open_clip.OPENAI_IMAGENET_TEMPLATES]
    assert PROMPTS["imagenet80"].prompts("otter") == expected
    assert "a photo of a aeroplane." in PROMPTS["imagenet80"].prompts("aeroplane")  # not inflected
    assert set(PROMPTS["openai7"].thing) < set(PROMPTS["imagenet80"].thing)


def test_thesis_sets_as_written():
    assert PROMPTS["thesis-top7"].prompts("dog") == [
        "a photo of a dog",
        "dog in the image",
        "this is a dog",
        "there is a dog",
        "dog in the scene",
        "a picture of a dog",
        "an image of a dog",
    ]
    assert PROMPTS["thesis-top3"].prompts("dog") == [
        "a photo of a dog",
        "dog in the scene",
        "this is a dog",
    ]
    assert PROMPTS["single"].prompts("dog") == ["a photo of a dog."]
    assert PROMPTS["none"].prompts("dog") == ["dog"]


def test_adaptive_follows_the_kind():
    adaptive = PROMPTS["adaptive"]
    assert adaptive.prompts("dog", "thing") == ["a photo of a dog", "dog in the image"]
    assert adaptive.prompts("sky-other", "stuff") == ["this is sky", "the sky"]
    assert adaptive.prompts("wall-brick", "material") == [
        "a brick wall surface",
        "brick wall texture",
    ]
    settings = TextSettings(prompts="adaptive", names="canonical")
    stuff = settings.vocabulary("coco_stuff")
    index = stuff.names.index("brick wall")
    assert stuff.queries[index] == "wall-brick"
    assert (
        settings.prompts_for(stuff.queries[index], stuff.kinds[index])[0] == "a brick wall surface"
    )
    with pytest.raises(WordsError, match="unknown kind 'beast'"):
        adaptive.templates("beast")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("wall-brick", "brick wall"),
        ("floor-wood", "wood floor"),
        ("window-blind", "window-blind"),
        ("sky-other", "sky"),
        ("desk-stuff", "desk"),
        ("rug-merged", "rug"),
        ("t-shirt", "t-shirt"),
        ("-other", "-other"),
        ("wall-", "wall-"),
        ("dog", "dog"),
    ],
)
def test_spoken_names(name, said):
    assert spoken(name) == said


def test_material_rules_can_be_switched():
    word = "wall-brick"
    assert TextSettings(prompts="none").prompts_for(word) == ["wall-brick"]
    assert TextSettings(prompts="none", material_rules=True).prompts_for(word) == ["brick wall"]
    off = TextSettings(prompts="adaptive", material_rules=False)
    assert off.prompts_for(word, "material")[0] == "a wall-brick surface"


@pytest.mark.parametrize("word", ["{dog}", "{}", "{0}", "{dog", "a}b", "%s", "🐕", "كلب"])
def test_braces_and_other_scripts_are_ordinary_characters(word):
    assert TextSettings(prompts="single").prompts_for(word) == [f"a photo of a {word}."]
    assert len(TextSettings().prompts_for(word)) == 80


def test_own_templates():
    settings = TextSettings(templates=["my {}", "{} or {}"])
    assert settings.prompts_for("dog") == ["my dog", "dog or dog"]
    assert settings.prompts_for("dog", "material") == ["my dog", "dog or dog"]
    assert hash(settings) == hash(TextSettings(templates=("my {}", "{} or {}")))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"prompts": "imagenet79"}, "imagenet79.*imagenet80"),
        ({"templates": ("a photo",)}, "'a photo' has no"),
        ({"templates": "a {}"}, "list of templates"),
        ({"names": "mine"}, "'mine'.*readable"),
        ({"auxiliary": "poems"}, "'poems'.*definitions"),
        ({"auxiliary_weight": 1.5}, "1.5.*0 to 1"),
        ({"auxiliary_weight": float("nan")}, "nan.*0 to 1"),
    ],
)
def test_wrong_settings_are_refused(values, message):
    with pytest.raises(RecipeError, match=message):
        TextSettings(**values)


def test_text_is_a_stage_of_every_recipe():
    recipe = Recipe("plain")
    assert recipe["text"] == TextSettings() == make_settings("text")
    changed = recipe.but({"text.templates": ["my {}"], "text.names": "sclip"})
    assert Recipe.from_yaml(changed.to_yaml()) == changed
    assert changed["text"].templates == ("my {}",)
    with pytest.raises(RecipeError, match="auxiliary_weight=0.1 has nothing to weigh"):
        recipe.but({"text.auxiliary_weight": 0.1})
    both = recipe.but({"text": {"auxiliary_weight": 0.1, "auxiliary": "definitions"}})
    assert both["text"].auxiliary == "definitions"


def test_settings_open_vocabularies():
    settings = TextSettings(names="sclip", background="plain")
    assert settings.vocabulary("voc21").synonyms[:2] == (("background",), ("aeroplane",))
    readable = Vocabulary.named("voc21")
    assert settings.vocabulary(readable) == settings.vocabulary("voc21")
    words = Vocabulary.from_words(["dog"])
    assert settings.vocabulary(words) is words


def test_prompts_is_a_mapping():
    assert set(COUNTS) | {"adaptive", "thesis-code-adaptive"} == set(PROMPTS)
    assert len(PROMPTS) == len(COUNTS) + 2 and "top9" not in PROMPTS
