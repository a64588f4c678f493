"""Background words for one's own words, the offset, and the audit of words."""

import numpy as np
import pytest
import torch

from ovsslib import load_backbone
from ovsslib.cli.main import main
from ovsslib.errors import RecipeError
from ovsslib.recipe import Recipe
from ovsslib.segmenter import Segmenter
from ovsslib.stages.labels import LabelSettings
from ovsslib.text.background import COUNT, audit_words, choose_background, general_words, same_word
from ovsslib.text.features import unknown_words
from ovsslib.text.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def scenes_model():
    return load_backbone("sceneclip")


def test_the_general_list_is_clean():
    words = general_words()
    assert 450 <= len(words) <= 700 and set(words.values()) == {"stuff", "things"}
    assert all(word == word.lower().strip() and word for word in words)


def test_chosen_words_are_known_and_mean_something_else(scenes_model):
    for asked in (["car", "tree"], ["horse", "grass", "barn"]):
        vocabulary = Vocabulary.from_words(asked)
        chosen = choose_background(scenes_model, vocabulary)
        assert 5 <= len(chosen) <= COUNT and len(set(chosen)) == len(chosen)
        assert unknown_words(scenes_model, chosen) == []
        assert not any(same_word(word, query) for word in chosen for query in asked)
        assert chosen == choose_background(scenes_model, vocabulary)
    one, other = (
        choose_background(scenes_model, Vocabulary.from_words([w]), 8) for w in ("car", "cow")
    )
    assert one != other  # for these words


def test_a_word_and_its_plural_or_compoundsame_word():
    for one, other in (
        ("table", "dining table"),
        ("dogs", "dog"),
        ("t-shirt", "t shirt"),
        ("berries", "berry"),
    ):
        assert same_word(one, other) and same_word(other, one)
    for one, other in (
        ("dog", "hot"),
        ("glass", "grass"),
        ("bus", "bush"),
        ("table", "table tennis"),
    ):
        assert not same_word(one, other)


def test_auto_is_chosen_and_the_usual_words_have_a_name(tiny_backbone):
    segmenter = Segmenter(tiny_backbone, Recipe.named("sclip").but({"text.prompts": "single"}))
    auto = segmenter.text(["cat", "sky"], "auto").vocabulary
    usual = segmenter.text(["cat", "sky"], "sclip").vocabulary
    assert auto.names == usual.names == ("background", "cat", "sky")
    assert auto.synonyms[0] == choose_background(
        tiny_backbone, Vocabulary.from_words(["cat", "sky"])
    )
    assert "wall" in usual.synonyms[0] and "sky" not in usual.synonyms[0]


def test_the_offset_moves_pixels_to_the_background(tiny_backbone):
    image = np.kron(
        np.random.default_rng(0).integers(0, 256, (4, 4, 3)), np.ones((16, 16, 1))
    ).astype(np.uint8)
    recipe = Recipe.named("sclip").but({"windows.short_side": 64, "text.prompts": "single"})
    shares = []
    for offset in (-1.0, 0.0, 1.0):
        segmenter = Segmenter(tiny_backbone, recipe.but({"labels.background_offset": offset}))
        plain = segmenter(image, ["cat", "dog"], ["sky"])
        kept = segmenter(image, ["cat", "dog"], ["sky"], keep_scores=True)  # not by strips
        assert np.array_equal(plain.mask, kept.mask)
        shares.append(float((plain.mask == 0).mean()))
    assert shares[0] == 0 and shares[2] == 1 and 0 <= shares[1] <= 1
    with pytest.raises(RecipeError, match="background_offset=0.5 need"):
        LabelSettings(background_offset=0.5).check_background(None)
    with pytest.raises(RecipeError, match="must lie in"):
        LabelSettings(background_offset=2)
    logits = torch.zeros(4, 2, 2)
    moved = LabelSettings(background_offset=0.25).offset(logits, torch.tensor([0, 0, 1]), 0)
    assert moved[:, 0, 0].tolist() == [0.25, 0.25, 0, 0]


def test_the_audit_names_what_is_wrong(scenes_model, capsys):
    found = audit_words(scenes_model, ["car", "cars", "zzyzx", "grass"])
    assert found.unknown == ("zzyzx",) and not found.fine
    pair = found.pairs.iloc[0]
    assert {pair["word"], pair["other"]} == {"car", "cars"} and pair["same"]
    assert 0 < pair["cosine"] <= 1.001
    with pytest.raises(SystemExit):
        main(["words", "audit", "car, cars, zzyzx", "--model", "sceneclip"])
    said = capsys.readouterr().out
    assert "zzyzx" in said and "cars" in said
