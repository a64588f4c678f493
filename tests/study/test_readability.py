"""Which sentences the embedded model can read; and that it reads what the chapters measure on Scenes."""

import pandas as pd
import pytest

from ovsslib import Vocabulary, load_backbone
from ovsslib.errors import DataError
from ovsslib.scenes.wordings import HELD_OUT
from ovsslib.study.readability import (
    LEAST_READ,
    NOT_TESTABLE,
    marked,
    readability,
    sentences_for,
    unread_tokens,
)
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
