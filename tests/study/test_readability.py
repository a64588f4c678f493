"""Which sentences the embedded model can read; and that it reads what the chapters measure on Scenes."""

import inspect
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from ovsslib import Segmenter, Vocabulary, load_backbone
from ovsslib.errors import DataError
from ovsslib.recipe import Recipe, stages
from ovsslib.scenes.wordings import HELD_OUT
from ovsslib.study.readability import (
    LEAST_READ,
    NOT_TESTABLE,
    marked,
    readability,
    sentences_for,
    sentences_of_recipe,
    unread_tokens,
)
from ovsslib.text import features
from ovsslib.text.prompts import PROMPTS, TextSettings


@pytest.fixture(scope="module", params=["sceneclip", "sceneclip-p32"])
def backbone(request):
    return load_backbone(request.param)


@pytest.fixture(scope="module")
def scenes() -> Vocabulary:
    return Vocabulary.named("scenes")


def test_unread_tokens_are_named(backbone):
    found = unread_tokens(backbone, ["a photo of a dog.", "a photo of a zebra.", "an origami dog"])
    assert found[0] == () and found[1] == ("zebra",) and found[2]
    seldom = unread_tokens(backbone, ["a photo of a dog."], least=10**9)
    assert "dog" in seldom[0]
    assert unread_tokens(backbone, []) == []


def test_a_model_that_does_not_say_reads_everything(backbone):
    class Real:
        known_token_ids = None

    assert unread_tokens(Real(), ["a zebra"]) == [()]


def test_prompts_of_the_thesis_are_read(backbone, scenes):
    for name in (
        "thesis-top7",
        "thesis-top3",
        "adaptive",
        "single",
        "none",
        "thesis-code-adaptive",
    ):
        for names in ("readable", "synonyms"):
            sentences = sentences_for(scenes, TextSettings(prompts=name, names=names))
            assert not any(unread_tokens(backbone, sentences)), name


def test_at_most_ten_of_the_eighty_templates_are_unread(backbone):
    templates = PROMPTS["imagenet80"].thing
    unread = [
        template
        for template, tokens in zip(
            templates,
            unread_tokens(backbone, [t.replace("{}", "dog") for t in templates]),
            strict=True,
        )
        if tokens
    ]
    assert len(unread) <= 10
    assert all(any(word in template for word in HELD_OUT) for template in unread)


def test_groups_definitions_and_synonyms_of_scenes_are_read(backbone, scenes):
    groups = [f"a photo of a {group}." for group in dict.fromkeys(scenes.groups)]
    assert not any(unread_tokens(backbone, groups))
    for kind in ("definitions", "synonyms"):
        settings = TextSettings(prompts="single", auxiliary=kind, auxiliary_weight=0.2)
        sentences = sentences_for(scenes, settings)
        assert len(sentences) > 60
        # Bushes and mountains are seldom the main thing of a crop: a few of their words were read 380 to 460 times.
        assert not any(unread_tokens(backbone, sentences, least=350)), kind
        assert sum(bool(tokens) for tokens in unread_tokens(backbone, sentences)) <= 2


def test_rows_with_too_many_unread_sentences_are_marked(backbone, scenes):
    found = readability(
        backbone,
        {
            "single": sentences_for(scenes, TextSettings(prompts="single")),
            "imagenet80": sentences_for(scenes, TextSettings(prompts="imagenet80")),
            "origami": sentences_for(scenes, TextSettings(prompts="origami")),
        },
    )
    assert list(found["testable"]) == [True, True, False]
    assert found.loc["single", "unread"] == 0 and found.loc["imagenet80", "unread"] == 340
    table = pd.DataFrame({"mIoU": [1.0, 2.0, 3.0, 4.0]}, ["single", "imagenet80", "origami", "x"])
    assert list(marked(table, found)["text read"]) == [
        "all", "2380 of 2720 sentences", NOT_TESTABLE, ""
    ]  # fmt: skip
    assert list(marked(table, found.loc[["single"]]).columns) == ["mIoU"]


def test_every_set_of_a_row_must_be_read(backbone):
    read, unread = ["a photo of a dog."] * 9, ["an origami dog"]
    found = readability(
        backbone, {"one": read + unread, "two": {"text": read, "x.words": unread}, "three": read}
    )
    assert list(found["sentences"]) == [10, 10, 9] and list(found["unread"]) == [1, 1, 0]
    assert list(found["testable"]) == [True, False, True]
    with pytest.raises(DataError, match="'empty'"):
        readability(backbone, {"empty": {}})


def test_methods_whose_own_words_are_unread_are_not_testable(scenes):
    recipes = ("sclip", "itaclip", "reco", "car", "cdam", "clip-es", "tagclip")
    sets = {name: sentences_of_recipe(scenes, Recipe.named(name)) for name in recipes}
    assert {"car.map_prompts", "car.score_prompts", "car.background_words"} < set(sets["car"])
    found = readability(load_backbone("sceneclip"), sets)["testable"]
    assert list(found[found].index) == ["sclip", "itaclip", "reco"]


def test_a_row_without_sentences_is_refused(backbone):
    with pytest.raises(DataError, match="'empty'"):
        readability(backbone, {"empty": []})


def test_what_holds_no_sentences_is_refused_or_empty(backbone):
    with pytest.raises(DataError):
        readability(backbone, {"text": "a photo of a dog."})
    assert readability(backbone, {}).empty
    found = readability(backbone, {"a": ["a dog"]})
    with pytest.raises(DataError, match="rows of one name.*'a'"):
        marked(pd.DataFrame({"mIoU": [1.0]}, ["a"]), pd.concat([found, found]))


def test_a_token_that_was_read_too_seldom_is_unread(backbone):
    seldom = min(backbone.times_read, key=backbone.times_read.__getitem__)
    assert backbone.times_read[seldom] < LEAST_READ
    word = next(w for w in ("coach", "peak", "shrub") if unread_tokens(backbone, [w])[0])
    assert unread_tokens(backbone, [word], least=1) == [()]


RECIPES = [
    Recipe.named("sclip"),
    Recipe("definitions").but({"text.auxiliary": "definitions", "text.auxiliary_weight": 0.2}),
    Recipe.named("cdam"),
    Recipe.named("clip-es"),
    Recipe.named("car"),
    Recipe.named("car").but({"car.passes": "things over stuff"}),
    Recipe.named("tagclip"),
    Recipe.named("tagclip").but({"text.background": "stuff", "tags.names": "canonical"}),
    Recipe.named("reco", "scenes"),
    Recipe.named("naclip-floss", "scenes"),
    Recipe("surgery").but(feature_surgery={"redundant": "a picture"}),
    Recipe("surgery-empty").but(feature_surgery={"redundant": ""}),
    Recipe("own-words").but(
        {
            "text.auxiliary": "definitions",
            "text.auxiliary_weight": 0.2,
            "text.words": [*Vocabulary.named("scenes").names[:-1], "puppy", "zebra"],
        }
    ),
    Recipe("groups").but(hierarchy={"text": "name"}),
    Recipe("members").but(hierarchy={"text": "members"}),
    Recipe("votes").but(purify={"votes": "definitions"}),
    Recipe("votes-of-words").but(purify=True),
]
OF_SCENES = ("own-words", "naclip-floss")
"""Recipes whose words, or whose table of templates, are for all classes of Scenes."""
CASES = [(recipe, "scenes") for recipe in RECIPES]
CASES += [(recipe, "scenes-object") for recipe in RECIPES if recipe.name not in OF_SCENES]


@pytest.mark.parametrize(
    ("recipe", "view"), CASES, ids=[f"{recipe.name}-{view}" for recipe, view in CASES]
)
def test_the_sentences_of_a_recipe_are_those_that_it_encodes(recipe, view, monkeypatch):
    backbone, seen = load_backbone("sceneclip"), set()

    def recorded(backbone, prompts, *rest, **further):
        seen.update(prompts)
        return torch.nn.functional.one_hot(
            torch.arange(len(prompts)) % backbone.dim, backbone.dim
        ).float()

    monkeypatch.setattr(features, "encode_prompts", recorded)
    monkeypatch.setattr(features, "_recall", lambda key: None)
    monkeypatch.setattr(features, "_store", lambda key, rows: None)
    image = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    words = Vocabulary.named(view)
    Segmenter(backbone, recipe)(image, recipe["text"].vocabulary(words))
    sets = sentences_of_recipe(words, recipe)
    assert {text for part in sets.values() for text in part} == seen


def test_every_stage_that_encodes_texts_of_its_own_says_which():
    encoding = set()
    for name, info in stages().items():
        source = inspect.getsource(sys.modules[info.settings.__module__])
        if name != "text" and ("encode_texts(" in source or "background_rows(" in source):
            encoding.add(name)
    assert {"car", "tags", "clip_es", "feature_surgery", "reco", "experts"} <= encoding
    assert not {name for name in encoding if not hasattr(stages()[name].settings, "sentences")}
