"""All methods in one table: order, published numbers, and what has no record."""

import numpy as np
import pandas as pd
import pytest

from ovsslib import paths
from ovsslib.errors import DataError
from ovsslib.evaluation.results import measure, stored
from ovsslib.recipe import Recipe, recipe_names
from ovsslib.study.methods import (
    GROUPS,
    agreement,
    methods_table,
    published_methods,
    published_miou,
)


def test_every_published_method_is_listed_once_by_group_and_year():
    names = published_methods()
    others = {name for name in recipe_names() if name.startswith(("thesis-", "ovss-"))}
    assert (
        "ovss-best" in others
        and set(names) == set(recipe_names()) - others
        and len(names) == len(set(names))
    )
    places = [(list(GROUPS).index(Recipe.named(n).group), Recipe.named(n).year or 0) for n in names]
    assert places == sorted(places)


def test_a_methods_own_source_is_taken_before_others():
    published = published_miou()
    assert published["sclip"] == 22.4 and published["clearclip"] == 23.9  # their papers
    assert published["clip-surgery"] == 21.9  # ResCLIP's table: its own reports none
    assert published["corrclip"] == 30.7  # ViT-B/16 of OpenAI, not of MetaCLIP
    assert (
        published["naclip"] == 25.69 and published["itaclip"] == 27.0
    )  # pamr=true is the recipe's own
    assert published["clip"] == 4.4 and published["cliptrase"] == 22.84
    assert "thesis-full" not in published  # projected numbers are not reported ones


def test_measured_ones_are_looked_up_and_others_stay_empty(tmp_path):
    names = ["clip", "sclip", "car"]
    results = stored(["clip", "sclip"], "embedded")
    assert set(results) == {"clip", "sclip"}
    table = methods_table(results, names)
    again = measure("sclip", "embedded", progress=False)["sclip"]
    assert table.loc["sclip", "value"] == pytest.approx(again.miou)
    assert table.loc["sclip", "low"] < table.loc["sclip", "value"] < table.loc["sclip", "high"]
    assert table.loc["sclip", "refined"] == table.loc["clip", "refined"] == ""
    refined = methods_table(
        stored(["naclip", "corrclip"], "embedded"), ["naclip", "corrclip", "reco"]
    )
    assert refined["refined"].to_dict() == {
        "naclip": "pamr", "corrclip": "mask_vote", "reco": "densecrf"
    }  # fmt: skip
    assert np.isnan(table.loc["car", "value"]) and table.loc["car", "group"] == "clip"
    assert len(stored(["sclip"], "embedded", limit=7)) == 0  # nobody has measured seven pictures
    for limit in (0, -1, "2", 1.5):
        with pytest.raises(DataError, match=f"limit={limit!r}"):
            stored(["sclip"], "embedded", limit=limit)
    own = tmp_path / "mine.yaml"
    own.write_text(paths.data("recipes/sclip.yaml").read_text())
    found = methods_table(stored([str(own)], "embedded"), [str(own)])
    assert found.loc["sclip", "value"] == pytest.approx(again.miou)


def test_recipes_whose_second_network_is_not_here_have_no_record():
    recipes = {
        "sclip": "sclip",
        "scorer": Recipe.named("car").but({"car.scorer": "ViT-L-14-quickgelu/openai"}),
        "archive": Recipe.named("reco").but({"reco.archive": "no/such/folder"}),
        "loftup": Recipe.named("thesis-phase1").but({"upsampling.weights": "no/such/file.pt"}),
        "guide": Recipe.named("proxyclip").but({"proxy_attention.guide": "facebook/nowhere"}),
    }
    assert set(stored(recipes, "embedded")) == {"sclip"}


def test_agreement_counts_methods_with_both_numbers():
    table = pd.DataFrame(
        {
            "group": ["clip", "clip", "clip", "masks", "clip"],
            "published": [1.0, 2.0, 3.0, 4.0, np.nan],
            "value": [10.0, 20.0, 30.0, 5.0, 1.0],
        },
        index=list("abcde"),
    )
    alone = agreement(table, ("clip",))
    assert (alone.entries, alone.tau) == (3, 1.0)
    assert agreement(table).tau == 0.0 and agreement(table).entries == 4
