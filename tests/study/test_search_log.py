"""The search for our own recipe: its log agrees with its grid, and the recipe is the trial that won."""

import pytest

from ovsslib import paths
from ovsslib.evaluation.profiles import Profile
from ovsslib.recipe import Recipe
from ovsslib.study import search_log
from ovsslib.study.ablation import read_grid


@pytest.fixture(scope="module")
def grid():
    return read_grid(paths.data("searches/ovss-best.yaml"), Profile.named("embedded"))


def test_every_trial_of_the_grid_is_in_the_log(grid):
    log = search_log.trials()
    assert list(log.index) == list(grid.recipes)
    assert set(log["images"]) == {grid.limit} and log["miou"].between(0, 100).all()
    assert log.loc[grid.base, "difference"] == 0 and log["round"].is_monotonic_increasing


def test_a_round_names_what_it_started_from():
    started = search_log.rounds()["start, mIoU, %"]
    log = search_log.trials()["miou"]
    assert started[0] == started[1] == log["itaclip"]
    assert started[2] == log["2: start"] and started[4] == log["2: logit scale 25"]
    assert set(started.index) == set(search_log.trials()["round"])


def test_the_recipe_is_a_trial_and_none_is_better_by_more_than_a_hair(grid):
    ours = Recipe.named("ovss-best", "scenes")
    (trial,) = [name for name, recipe in grid.recipes.items() if recipe == ours]
    log = search_log.trials()
    assert log.loc[trial, "miou"] >= log["miou"].max() - 0.05


def test_it_costs_no_more_encoder_forwards_than_its_base():
    work = search_log.forwards("scenes", (224, 298))
    assert work["ovss-best"] == 2 and work["itaclip"] == 5 * work["ovss-best"]


def test_the_test_split_is_another_than_the_development_split():
    tested = search_log.tested()
    assert set(tested.index) == {"itaclip", "ovss-best"} and (tested["images"] >= 100).all()
    row = tested.loc["ovss-best"]
    assert row["difference"] == pytest.approx(row["miou"] - tested.loc["itaclip", "miou"], abs=0.02)
    assert search_log.gain_on_test().startswith(f"{row['difference']:+.2f} points [")


def test_rounds_sum_up_the_trials():
    rounds = search_log.rounds()
    assert rounds["trials"].sum() == len(search_log.trials()) and rounds.index[0] == 0
    assert rounds["mIoU, %"].max() == search_log.trials()["miou"].max()
