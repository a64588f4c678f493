"""What a run would settle: the work of the image encoder, counted by hand for known cases."""

import pytest

from ovsslib.datasets.dataset import VIEWS
from ovsslib.errors import DataError
from ovsslib.recipe import Recipe
from ovsslib.study.claims import DATASETS, load_claims
from ovsslib.study.settling import IMAGE_SIZES, RATE, encoder_work, settling

VIT_B16_WINDOW = 12 * 197 * (24 * 768**2 + 4 * 768 * 197)  # 35 GFLOP: ViT-B/16 at 224 pixels


def test_every_data_set_of_the_claims_has_its_size():
    assert set(IMAGE_SIZES) == set(DATASETS)


def test_windows_and_views_are_counted():
    sclip = Recipe.named("sclip", "voc21").but({"windows.short_side": 336})
    _, forwards, operations = encoder_work(sclip, (336, 448))
    assert forwards == 2 * 3 and operations == pytest.approx(6 * VIT_B16_WINDOW)
    viewed = sclip.but({"image_engineering": True})
    views = len(viewed["image_engineering"].use)
    assert encoder_work(viewed, (336, 448))[1] == 6 * views
    assert encoder_work(sclip, (336, 448))[0] != encoder_work(viewed, (336, 448))[0]
    refined = sclip.but({"pamr": True})
    assert encoder_work(refined, (336, 448)) == encoder_work(sclip, (336, 448)), "shared"


def test_hours_are_operations_over_the_rate():
    row = settling(["coco_stuff10k"]).loc["coco_stuff10k"]
    claims = load_claims()
    assert (
        row["claims"] == ((claims["dataset"] == "coco_stuff10k") & (claims["recipe"] != "")).sum()
    )
    assert row["images"] == VIEWS["coco_stuff10k"][3] == 1000
    work = row["forwards"] * VIT_B16_WINDOW * row["images"]
    assert row["hours"] == pytest.approx(work / (RATE * 1e12) / 3600)
    assert row["command"].startswith("ovss reproduce all --dataset coco_stuff10k")


def test_a_data_set_without_claims_is_refused():
    with pytest.raises(DataError, match="scenes"):
        settling(["scenes"])
