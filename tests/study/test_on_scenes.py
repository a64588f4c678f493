"""Published tables on the embedded world: from the store where it can, and nothing quoted among the measured."""

import numpy as np
import pytest

from ovsslib.errors import DataError
from ovsslib.evaluation.profiles import Profile
from ovsslib.evaluation.results import Results, stored
from ovsslib.recipe import Recipe
from ovsslib.study import on_scenes
from ovsslib.study.claims import claims_of, load_claims
from ovsslib.study.on_scenes import VIEW_OF, level_of, reproduce_on_scenes
from ovsslib.study.reproduce import reproduce, targets
from ovsslib.study.sources import published


def rows_of(found, **where):
    frame = found.ledger
    for column, value in where.items():
        frame = frame[frame[column] == value]
    return frame


def test_a_table_is_answered_from_the_store():
    found = reproduce("thesis-table4.2", profile="embedded")
    known = stored({"phase": "thesis-phase2a", "base": "thesis-baseline"}, "embedded")
    level = rows_of(found, id="thesis-t4.2-full-person-iou").iloc[0]
    assert level["value"] == pytest.approx(known["phase"].interval("class_iou:person").value)
    gain = rows_of(found, id="thesis-t4.2-achieved-gain-miou").iloc[0]
    expected = known["phase"].difference(known["base"], "miou")
    assert gain["value"] == pytest.approx(expected.value) and gain["low"] == pytest.approx(
        expected.low
    )
    assert gain["measured"].endswith("]") and "points" in gain["measured"]
    assert not found.failed and set(found.ledger["view"]) == {"scenes"}
    table = found.table()
    assert list(table)[3:] == ["claimed", "measured on", "measured", "note"]
    assert "32.48 %" in set(table["claimed"].str.removesuffix(" (projected)"))


@pytest.fixture
def counted(monkeypatch):
    """Instead of SceneCLIP: counts from a seed for every recipe that is asked for, and no time passes."""
    from test_store import report

    asked = []

    def measure(recipes, profile, limit=None, **_):
        asked.append((profile.model, profile.dataset, limit, list(recipes)))
        made = {
            label: report(recipe, seed=len(label), dataset=profile.dataset, limit=limit)
            for label, recipe in recipes.items()
        }
        return Results(made, profile)

    class Quick:
        def __init__(self, backbone, recipe):
            self.recipe = recipe

        def text(self, vocabulary):
            return None

    monkeypatch.setattr(on_scenes, "measure", measure)
    monkeypatch.setattr(on_scenes, "Segmenter", Quick)
    monkeypatch.setattr(Profile, "backbone", lambda self: None)
    monkeypatch.setattr(
        on_scenes,
        "reference_report",
        lambda name, profile, *_: report(Recipe(name), seed=9),
    )
    return asked


def test_quoted_rows_have_no_measured_number_and_a_reason(counted):
    found = reproduce("thesis-table4.6", profile="embedded", limit=3)
    for row in ("LSeg", "GroupViT", "CLIPSeg", "DeepLabV3+", "Mask2Former"):
        one = rows_of(found, row=row).iloc[0]
        assert one["claimed"] and not one["measured"] and one["note"] and np.isnan(one["value"])
    assert {row for row, _ in found.quoted} == {"LSeg", "DeepLabV3+"}
    reference = rows_of(found, recipe="deeplabv3-scenes").iloc[0]
    assert reference["measured"] and not reference["claimed"]
    assert "supervised, closed vocabulary" in reference["row"]
    whole, told, never = (row for _, row in rows_of(found, recipe="lseg-scenes").iterrows())
    assert "trained with masks" in whole["row"] and "stand-in for LSeg" in whole["note"]
    assert whole["measured"] and not whole["claimed"] and told["row"].endswith("masks shown")
    assert never["row"].endswith("masks not shown") and not never["claimed"]
    assert counted[0][:3] == ("sceneclip", "scenes", 3)


def test_rows_without_a_recipe_of_the_claim_run_here(counted):
    found = reproduce("itaclip-table1", "voc21", "embedded", limit=3)
    assert {view for _, view, _, _ in counted} == {"scenes-object"}
    for row, recipe in on_scenes.RECIPE_OF.items():
        one = rows_of(found, row=row).iloc[0]
        assert one["measured"] and one["recipe"] == recipe
    assert not rows_of(found, row="TCL").iloc[0]["measured"]
    whole = reproduce("itaclip-table1", profile="embedded", limit=3)
    assert {view for _, view, _, _ in counted[1:]} == {"scenes", "scenes-object"}
    assert set(on_scenes.RECIPE_OF) <= set(whole.ledger["row"])


def test_each_backbone_has_its_own_counterpart_or_none(counted):
    found = reproduce("itaclip-table10", profile="embedded")
    assert [model for model, *_ in counted] == ["sceneclip-p32", "sceneclip"]
    large = rows_of(found, row="ViT-L/14").iloc[0]
    assert not large["measured"] and "no counterpart of ViT-L/14" in large["note"]


def test_settings_are_read_from_the_recipe():
    found = reproduce("itaclip-table9", profile="embedded")
    for row in found.ledger.to_dict("records"):
        assert row["measured"] == row["claimed"] and "setting" in row["note"]
        assert row["view"] == "", "a setting is not measured on anything"


def test_times_are_those_of_this_machine(counted, monkeypatch):
    seconds = iter((2.0, 3.0))
    given = {}

    def timed(segmenters, images, vocabulary, repeats):
        import pandas as pd

        return pd.Series({"": next(seconds)})

    monkeypatch.setattr(on_scenes, "seconds_per_image", timed)
    found = reproduce("thesis-table4.5", profile="embedded", limit=3)
    for row in found.ledger.to_dict("records"):
        given[row["id"]] = row
    base, full, more = (given[f"thesis-t4.5-{part}"] for part in (
        "baseline-seconds-per-image", "full-seconds-per-image", "improvement-gain-seconds-per-image",
    ))  # fmt: skip
    assert {base["measured"], full["measured"]} == {"2.00 s", "3.00 s"}
    assert more["value"] == pytest.approx(full["value"] - base["value"])
    assert "this machine" in full["note"]


def test_a_recipe_that_cannot_be_run_is_told(counted, monkeypatch):
    claims = claims_of("thesis-table4.2").copy()
    claims.loc[claims["recipe"] == "thesis-phase2a", "changes"] = "no_such_stage=true"
    found = reproduce_on_scenes("thesis-table4.2", claims, Profile.named("embedded"), 3)
    assert any("no_such_stage" in why for *_, why in found.failed)
    row = rows_of(found, id="thesis-t4.2-full-miou").iloc[0]
    assert not row["measured"] and "could not be run" in row["note"]
    assert rows_of(found, id="thesis-t4.2-baseline-miou").iloc[0]["measured"]


def test_a_table_of_nothing_that_runs_is_an_error():
    with pytest.raises(
        DataError, match="nothing of 'thesis-prose-a.4.2' can be measured on Scenes"
    ):
        reproduce("thesis-prose-a.4.2", profile="embedded")
    with pytest.raises(DataError, match="holds nothing about 'ade20k'; its data sets: coco_stuff"):
        reproduce("thesis-table4.2", "ade20k", "embedded")


@pytest.mark.parametrize(
    "one", [p for p in published() if p.kind == "table"], ids=lambda p: p.target
)
def test_every_table_of_the_sources_has_an_answer(one, counted, monkeypatch):
    """Each claim is either measured or says why it is not; none is lost."""
    import pandas as pd

    monkeypatch.setattr(
        on_scenes, "seconds_per_image", lambda segmenters, *_, **__: pd.Series({"": 1.0})
    )
    stages = sorted({stage for stages in on_scenes.PARTS.values() for stage in stages})
    times = pd.DataFrame({"stage": stages, "seconds": 1.0, "share": 5.0, "peak_gb": 0.5})
    monkeypatch.setattr(on_scenes, "stage_times", lambda *_, **__: times)
    found = reproduce(one.target, profile="embedded", limit=3)
    claims = claims_of(one.target)
    assert list(found.ledger["id"])[: len(claims)] == list(claims["id"])
    assert all(bool(r["measured"]) or bool(r["note"]) for r in found.ledger.to_dict("records"))
    assert not found.failed and found.ledger["measured"].astype(bool).any()


def test_every_target_is_listed_once():
    frame = targets()
    assert frame["target"].is_unique and frame["claims"].sum() == len(load_claims())
    assert frame["target"].iloc[0] == "thesis-table4.1" and frame["chapter"].iloc[0] == "02_phase1"


def test_metrics_of_claims():
    assert level_of("person_iou") == "class_iou:person" == level_of("gain_person_iou")
    assert level_of("gain_miou") == "miou" and level_of("alpha") is None
    assert set(VIEW_OF.values()) == {"scenes", "scenes-object", "scenes-things"}
