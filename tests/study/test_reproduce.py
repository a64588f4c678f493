"""Reproducing a published table: its rows are run, levels and gains are compared."""

import dataclasses

import numpy as np
import pytest
from fake_datasets import build
from test_store import report

from ovsslib.errors import DataError, ModelError
from ovsslib.evaluation import profiles
from ovsslib.evaluation.profiles import Profile
from ovsslib.evaluation.results import Results
from ovsslib.recipe import Recipe
from ovsslib.study import claims as claims_module
from ovsslib.study import reproduce
from ovsslib.study.claims import canonical_model, load_claims, runs_for, target_name


def test_every_model_is_called_what_its_claims_call_it():
    for name, (model, tag) in reproduce.MODELS.items():
        assert canonical_model(f"{model}/{tag}").removeprefix("OpenCLIP ") == name.removeprefix(
            "OpenCLIP "
        )


@pytest.fixture
def measured(monkeypatch):
    """Instead of an hour of CLIP: counts from a seed for every recipe that is asked for."""
    asked = []

    def measure(recipes, profile, limit=None, **_):
        asked.append((profile, limit))
        names = tuple(profiles_vocabulary(profile.dataset))
        reports = {}
        for label, recipe in recipes.items():
            assert isinstance(recipe, Recipe)
            one = report(recipe, seed=len(reports), dataset=profile.dataset, limit=limit)
            one = dataclasses.replace(one, names=names[:3])
            reports[label] = dataclasses.replace(one, model=f"{profile.model}/{profile.pretrained}")
        return Results(reports, profile)

    monkeypatch.setattr(reproduce, "measure", measure)
    small = {name: (*view[:3], 12) for name, view in claims_module.VIEWS.items()}
    monkeypatch.setattr(claims_module, "VIEWS", small)  # a few images are the whole data set
    return asked


def profiles_vocabulary(dataset):
    from ovsslib import Vocabulary

    return Vocabulary.named(dataset.replace("10k", "")).names


def test_levels_and_gains_are_set_beside_the_claims(measured):
    claims = load_claims()
    gains = claims[
        (claims["metric"] == "gain_miou")
        & (claims["model"] == "ViT-B/16")
        & (claims["versus"] != "")
    ]
    row = gains[gains["dataset"] == "coco_stuff"].iloc[0]
    target = target_name(row["source"], row["table"])
    found = reproduce.reproduce(target, "coco_stuff")
    wanted = runs_for(target, "coco_stuff")
    assert {profile.model for profile, _ in measured} >= {"ViT-B-16-quickgelu"}
    assert set(found.ledger["dataset"]) == {"coco_stuff"}
    gain = found.ledger[found.ledger["id"] == row["id"]].iloc[0]
    assert gain["status"].startswith("measured here")
    levels = found.results[found.results["versus"] == ""].set_index(
        ["model", "recipe", "changes", "metric"]
    )
    there = ("ViT-B-16-quickgelu/openai", row["recipe"], row["changes"], "miou")
    recipe, _, changes = row["versus"].partition(";")
    base = ("ViT-B-16-quickgelu/openai", recipe.strip(), changes.strip(), "miou")
    difference = levels.loc[there, "value"] - levels.loc[base, "value"]
    assert gain["measured"] == pytest.approx(float(np.ravel(difference)[0]))
    assert len(wanted) * 7 == len(found.results[found.results["versus"] == ""]) - sum(
        found.results["metric"].str.startswith("class_iou")
    )
    table = found.table()
    assert list(table) == ["row", "data set", "metric", "claimed", "measured", "status"]
    assert not found.failed


def test_a_part_of_the_data_set_settles_nothing(measured):
    found = reproduce.reproduce("itaclip-table1", "voc21", limit=12)
    assert set(found.results["limit"]) == {12}
    assert not found.ledger["status"].str.startswith("measured").any()


def test_what_is_missing_is_said(monkeypatch, tmp_path):
    monkeypatch.delenv("OVSSLIB_DATA", raising=False)
    with pytest.raises(DataError, match="could be run.*OVSSLIB_DATA"):
        reproduce.reproduce("itaclip-table1", "voc21")
    with pytest.raises(DataError, match="unknown target"):
        reproduce.reproduce("itaclip-table77")
    with pytest.raises(DataError, match="no weights are known"):
        reproduce._profile_for("DINOv2 ViT-S/14", "voc21")


def test_end_to_end_with_a_small_model(monkeypatch, tmp_path, tiny_backbone):
    monkeypatch.setenv("OVSSLIB_CACHE", str(tmp_path / "cache"))
    fake = build("voc20", tmp_path, images=1)
    monkeypatch.setattr(profiles, "load_backbone", lambda *a, **k: tiny_backbone)
    monkeypatch.setattr(profiles, "_backbones", {})
    claims = load_claims()
    simple = claims[(claims["recipe"] == "maskclip") & (claims["dataset"] == "voc20")].iloc[0]
    small = Recipe.named("maskclip").but({"text.prompts": "single"})
    monkeypatch.setattr(reproduce.Recipe, "named", staticmethod(lambda name, dataset=None: small))
    own = Profile("own", model="tiny", dataset="voc20", root=str(fake.root), limit=None)
    target = target_name(simple["source"], simple["table"])
    runs = runs_for(target, "voc20")
    monkeypatch.setattr(
        reproduce, "runs_for", lambda *_: runs[runs["recipe"] == "maskclip"].iloc[:1]
    )
    found = reproduce.reproduce(target, "voc20", own, progress=False)
    assert set(found.results["model"]) == {"tiny/vectors"} and set(found.results["images"]) == {1}
    assert not found.ledger["status"].str.startswith("measured").any()


def test_the_command_from_files_to_a_comparison(monkeypatch, tmp_path, tiny_backbone, capsys):
    """`ovss reproduce` on a fake VOC with the official settings: six recipes, a record each, a table and a CSV."""
    from ovsslib.cli.main import main

    monkeypatch.setenv("OVSSLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OVSSLIB_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(profiles, "load_backbone", lambda *a, **k: tiny_backbone)
    monkeypatch.setattr(profiles, "_backbones", {})
    build("voc21", tmp_path / "data", images=1)
    named = Recipe.named

    def quick(name, dataset=None):
        fast = {"text.prompts": "single", "windows.short_side": 64, "windows.stride": 112}
        return named(name, dataset).but(fast)

    monkeypatch.setattr(reproduce.Recipe, "named", staticmethod(quick))
    arguments = ["reproduce", "itaclip-table1", "--dataset", "voc21", "--workers", "0"]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--csv", str(tmp_path / "ledger.csv")])
    shown = capsys.readouterr()
    assert ended.value.code == 0 and "not run" not in shown.out
    assert "67.9" in shown.out and "ITACLIP" in shown.out
    assert len(list((tmp_path / "cache").rglob("results/*.*"))) >= 6
    ledger = (tmp_path / "ledger.csv").read_text().splitlines()
    assert "status" in ledger[0] and any("itaclip-t1-itaclip-voc21-miou" in row for row in ledger)
    with pytest.raises(SystemExit):
        main(arguments)
    assert "1/1" not in capsys.readouterr().err, "the second run only looks up"


def test_a_run_that_lacks_something_does_not_stop_the_others(measured, monkeypatch):
    honest = reproduce.measure

    def measure(recipes, *arguments, **options):
        if any("proxyclip" in label for label in recipes):
            raise ModelError("the guide's weights are not here")
        return honest(recipes, *arguments, **options)

    monkeypatch.setattr(reproduce, "measure", measure)
    profile = Profile.named("openai-vitb16-voc21")
    found = reproduce.reproduce("all", "voc21", profile)
    failed = {recipe.split()[0] for _, _, recipe, why in found.failed if "guide" in why}
    assert failed and all("proxyclip" in recipe for recipe in failed)
    runs = runs_for("all", "voc21")
    assert "sclip" in set(found.results["recipe"]) and len(found.failed) < len(runs)
    assert set(found.ledger["dataset"]) == {"voc21"}
    assert len(found.ledger) == (load_claims()["dataset"] == "voc21").sum()
