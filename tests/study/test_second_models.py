"""What a second model adds: pairs that differ in its part alone, and their differences."""

import pytest

from ovsslib.errors import RecipeError
from ovsslib.evaluation.profiles import Profile
from ovsslib.evaluation.results import Results, stored
from ovsslib.recipe import Recipe
from ovsslib.study.methods import GROUPS
from ovsslib.study.second_models import (
    PAIRS,
    Pair,
    complete,
    gains,
    named_pairs,
    second_models,
    sides,
)  # fmt: skip


def made(side) -> Recipe:
    recipe, changes = side
    return Recipe.named(recipe, "scenes").but(changes)


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.title)
def test_both_sides_are_recipes_and_the_base_asks_for_less(pair):
    helped, base = second_models(made(pair.helped)), second_models(made(pair.base))
    assert helped and set(base.items()) <= set(helped.items())
    assert made(pair.helped).key() != made(pair.base).key()
    assert pair.group in GROUPS and pair.group != "clip"
    if pair.group == "guide":
        assert "guide" in helped and "guide" not in base


def test_titles_are_different_and_a_plain_recipe_is_measured_once():
    assert len({pair.title for pair in PAIRS}) == len(PAIRS)
    names = sides()
    assert names["sclip"] == ("sclip", {}) and list(names).count("sclip") == 1
    for pair in PAIRS:
        assert names[pair.title] == pair.helped
    keys = {made(side).key() for side in names.values()}
    assert len(keys) == len(names)


def test_what_a_recipe_asks_of_others_than_clip():
    assert second_models(Recipe.named("sclip")) == {}
    assert second_models(Recipe.named("corrclip")) == {"guide": "dino-vitb8", "masks": "sam2"}
    trident = second_models(Recipe.named("trident", "scenes"))
    assert trident == {"guide": "scenedino", "prompts": "felzenszwalb"}


def test_gains_are_those_of_the_reports_and_half_a_pair_is_left_out():
    pairs = (
        Pair("better", "masks", ("naclip", {}), ("maskclip", {}), "maskclip"),
        Pair("gone", "masks", ("sclip", {}), ("clip", {}), "clip"),
    )
    found = stored({"better": "naclip", "maskclip": "maskclip", "gone": "sclip"}, "embedded")
    assert len(found) == 3
    assert [pair.title for pair in complete(list(found), pairs)] == ["better"]
    made_of = gains(found, ("miou", "boundary_f1"), pairs)
    for metric in ("miou", "boundary_f1"):
        frame = made_of[metric]
        assert list(frame.index) == ["better"]
        row, gap = frame.loc["better"], found["better"].difference(found["maskclip"], metric)
        assert (row["value"], row["low"], row["high"]) == (gap.value, gap.low, gap.high)
        assert row["with"] - row["without"] == pytest.approx(row["value"])
        assert row["base"] == "maskclip" and row["group"] == "masks"


def test_without_any_pair_there_is_an_empty_table():
    nothing = gains(Results({}, Profile.named("embedded")), ("miou",))["miou"]
    assert len(nothing) == 0 and {"value", "low", "high", "verdict"} <= set(nothing)


def test_pairs_go_by_their_titles_and_a_wrong_one_is_named():
    assert named_pairs() == list(PAIRS)
    assert [pair.title for pair in named_pairs(["sclip + vote", "lposs"])] == [
        "lposs",
        "sclip + vote",
    ]
    with pytest.raises(RecipeError, match="unknown pair 'lpos'.*lposs"):
        named_pairs(["lpos"])
