"""The study of names: its words, its counts, what is won back, and the order of words."""

import dataclasses
import warnings

import numpy as np
import pytest
from engine_cases import seeded_backbone, small_recipe

from ovsslib import evaluate, load_backbone, open_dataset
from ovsslib.errors import DataError
from ovsslib.evaluation.profiles import Profile
from ovsslib.evaluation.report import Report
from ovsslib.evaluation.results import Results
from ovsslib.recipe import Recipe
from ovsslib.segmenter import Segmenter
from ovsslib.study import names
from ovsslib.study.names import CHOSEN, PLAIN, SCALAR, TUNED, USUAL, Wording
from ovsslib.study.readability import unread_tokens
from ovsslib.text.background import same_word
from ovsslib.text.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def model():
    return load_backbone("sceneclip")


def test_distractors_name_nothing_that_is_in_the_pictures(model):
    world = Vocabulary.named("scenes", names="synonyms").queries
    for view in ("scenes", "scenes-object", "scenes-things"):
        vocabulary = Vocabulary.named(view)
        found = names.distractors(model, vocabulary, 20)
        assert len(set(found)) == 20
        assert not any(same_word(word, query) for word in found for query in world)
        assert not set(found) & {"lawn", "ocean", "seat", "brick", "wall"}  # other names of classes
        assert not any(unread_tokens(model, found))
        assert found[:5] == names.distractors(model, vocabulary, 5)
        assert found != names.distractors(model, vocabulary, 20, seed=1)
    many = names.distractors(model, vocabulary, 100)
    assert len(many) == 100 and many[:20] == found
    assert any(unread_tokens(model, many))  # the model has read too few words for so many
    with pytest.raises(DataError, match="0 distractors"):
        names.distractors(model, vocabulary, 0)


def test_rows_of_a_view_with_and_without_a_background(model):
    with_background = names.wordings(model, Vocabulary.named("scenes-object"))
    titles = [row.title for row in with_background]
    assert titles[:2] == [TUNED, PLAIN] and len(set(titles)) == len(titles) == 11
    rows = {row.title: row for row in with_background}
    assert rows[TUNED].changes == {} and rows[PLAIN].words[:2] == ("background", "person")
    assert rows[names.PLURALS].words[1] == "people" and rows[names.SYNONYMS].words[2] == "hound"
    helped = rows[names.helped_title(20, CHOSEN)]
    assert len(helped.words) == 21 + 20 and "sky" in helped.words[0].split(", ")
    assert rows[names.helped_title(20, SCALAR)].changes["labels.background_offset"] > 0
    for row in with_background:
        Recipe.named("sclip", "scenes-object").but(row.changes)["text"].vocabulary("scenes-object")
    without = {row.title: row for row in names.wordings(model, Vocabulary.named("scenes"))}
    assert names.helped_title(20, SCALAR) not in without
    assert len(without[names.helped_title(20, USUAL)].words) > 34 + 20
    assert names.helped_title(20, CHOSEN) not in without  # all that the model reads is asked for
    assert names.PLURALS in without and without[PLAIN].words[7] == "brick"
    bare = names.wordings(model, Vocabulary.named("scenes"), counts=(), helped=None)
    assert [row.title for row in bare] == [TUNED, PLAIN, names.PLURALS, names.SYNONYMS]
    with pytest.raises(DataError, match="not shipped"):
        names.wordings(model, Vocabulary.from_words(["dog"]))


def test_a_pixel_that_goes_to_a_distractor_is_missed_and_no_class_of_the_mean(model):
    dataset = open_dataset("scenes", limit=2)
    backbone, classes = model, list(dataset.vocabulary.names)
    plain = Recipe.named("sclip", "scenes").but({"text.prompts": "single"})
    more = plain.but({"text.words": ["roof", *classes[1:], "sky", "chimney"]})
    reports = evaluate(
        [Segmenter(backbone, one) for one in (plain, more)], dataset, store=False, progress=False
    )
    for report in reports:
        assert report.counts.shape == (2, 3, 34) and report.names == tuple(classes)
    alone, among = (report.counts for report in reports)
    assert np.array_equal(alone[:, 2], among[:, 2])  # labels
    assert np.array_equal(alone[:, 1].sum(axis=1), alone[:, 2].sum(axis=1))
    # every pixel of Scenes has a class, so those that no class got went to the other words
    lost = among[:, 2].sum(axis=1) - among[:, 1].sum(axis=1)
    segmenter = Segmenter(backbone, more)
    text = segmenter.text(more["text"].vocabulary(dataset.vocabulary))
    for index, (image, label, _) in enumerate(dataset):
        mask = segmenter.segment(image, text).mask
        assert lost[index] == (mask == 34).sum() and label.max() < 34
    assert lost[0] > 0 and among[0, 0, 0] < alone[0, 0, 0]  # its sky
    assert reports[1].difference(reports[0]).value < 0


def test_records_tell_words_apart_and_are_found_again(tmp_path):
    from ovsslib.evaluation.store import ResultsStore

    store = ResultsStore(tmp_path, shipped=tmp_path / "none.sqlite")
    dataset = open_dataset("scenes", limit=1)
    backbone = seeded_backbone()
    classes = list(dataset.vocabulary.names)
    several = [(), classes, [*classes, "roof"], [*classes, "door"]]
    recipes = [
        small_recipe(**{"text.words": words}) if words else small_recipe() for words in several
    ]
    segmenters = [Segmenter(backbone, recipe) for recipe in recipes]
    first = evaluate(segmenters, dataset, store=store, progress=False)
    assert len(store.keys()) == 4
    again = evaluate(segmenters, dataset, store=store, progress=False)
    assert [one.miou for one in again] == [one.miou for one in first]
    kept = next(r for r in store.reports() if r.recipe["text"].words[-1:] == ("door",))
    assert kept.names == tuple(classes)


def _report(right: np.ndarray, recipe: Recipe) -> Report:
    """Two classes of 100 labelled pixels each in every image, of which `right` (N,) are right in each class."""
    images = len(right)
    counts = np.zeros((images, 3, 2), dtype=np.int64)
    counts[:, 0] = right[:, None]
    counts[:, 1:] = 100
    empty = np.zeros((images, 4), np.int64), np.zeros((images, 15, 3), np.int64)
    return Report(recipe, "scenes", "m", ("a", "b"), counts, *empty, np.arange(images))


def _results(images: int, **rows: float) -> Results:
    recipe = Recipe.named("sclip")
    noise = np.random.default_rng(0).integers(-5, 6, images)
    titles = {"tuned": TUNED, "lost": "lost", "helped": "helped"}
    reports = {
        f"{method}: {titles[name]}": _report(value + noise, recipe)
        for method in ("sclip", "naclip")
        for name, value in rows.items()
    }
    return Results(reports, Profile.named("embedded"))


def test_half_is_won_back_only_beyond_a_paired_interval():
    found = names.won_back(_results(50, tuned=80, lost=40, helped=75), "lost", "helped", ["sclip"])
    assert list(found.index) == ["sclip"] and found.loc["sclip", "verdict"] == "better"
    row = found.iloc[0]
    assert 0.5 < row["share"] < 1 and 0 < row["low"] < row["beyond"] < row["high"]
    both = names.won_back(
        _results(50, tuned=80, lost=40, helped=50), "lost", "helped", ["sclip", "naclip"]
    )
    assert list(both.index) == ["sclip", "naclip", "mean of 2 methods"]
    assert set(both["verdict"]) == {"worse"}
    assert both["share"].iloc[2] == pytest.approx(both["share"].iloc[0])
    few = names.won_back(_results(3, tuned=80, lost=40, helped=75), "lost", "helped", ["sclip"])
    assert few[["low", "high"]].isna().all(axis=None) and few["beyond"].iloc[0] > 0
    with pytest.raises(DataError, match="no result is called"):
        names.won_back(_results(3, tuned=80, lost=40), "lost", "helped", ["sclip"])


def test_tables_of_differences_to_the_tuned_names():
    results = _results(50, tuned=80, lost=40)
    rows = [Wording(TUNED, {}), Wording("lost", {}), Wording("never measured", {})]
    found = names.differences(results, rows, ["sclip", "naclip"])
    assert list(found["method"]) == ["sclip", "sclip", "naclip", "naclip"]
    assert list(found["row"]) == [TUNED, "lost"] * 2
    assert np.isnan(found["difference"].iloc[0]) and found["difference_high"].iloc[1] < 0
    mean = names.mean_of_methods(results, rows, ["sclip", "naclip"])
    assert list(mean.index) == ["lost"] and mean.loc["lost", "verdict"] == "worse"
    assert mean.loc["lost", "value"] == pytest.approx(found["difference"].iloc[1])
    with pytest.raises(DataError, match="with tuned names"):
        names.differences(results, rows, ["gem"])


def test_every_method_meets_every_row():
    rows = [Wording(TUNED, {}), Wording("other", {"text.words": ("a",)})]
    made = names.grid(rows, ["sclip", "naclip"])
    assert list(made) == [
        "sclip: tuned names",
        "sclip: other",
        "naclip: tuned names",
        "naclip: other",
    ]
    assert made["naclip: other"] == ("naclip", {"text.words": ("a",)})


def test_the_order_of_words_matters_only_to_rules_that_know_one(model):
    picture = open_dataset("scenes", limit=1)[0][0]
    words = ["person", "dog", "sky", "grass", "road", "tree"]
    plain = Recipe.named("sclip", "scenes").but({"text.prompts": "single"})
    assert names.order_matters(Segmenter(model, plain), [picture], words) == 0
    closing = dataclasses.replace(plain["labels"], closing=9, closing_by="label")
    ordinal = plain.but({"labels": dataclasses.asdict(closing)})
    assert 0 < names.order_matters(Segmenter(model, ordinal), [picture], words) < 0.5
    with pytest.raises(DataError, match="no pictures"):
        names.order_matters(Segmenter(model, plain), [], words)


def test_unread_words_are_asked_without_a_warning(model):
    recipe = Recipe.named("sclip", "scenes").but({"text.prompts": "single"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with names.unread_allowed():
            Segmenter(model, recipe).text(["zebra", "dog"])
        with pytest.raises(UserWarning, match="never trained on"):
            Segmenter(model, recipe).text(["zebra", "dog"])
