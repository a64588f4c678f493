"""The results store: keys, records that survive damage, tables."""

import dataclasses
import json
import os
import stat

import numpy as np
import pandas as pd
import pytest
from engine_cases import seeded_backbone, small_dataset, small_recipe

from ovsslib import Recipe, Segmenter, evaluate
from ovsslib.errors import DataError
from ovsslib.evaluation import keys, store
from ovsslib.evaluation.records import (
    RecordsFile,
    configuration,
    pack_counts,
    unpack_counts,
    write_records,
)
from ovsslib.evaluation.report import METRICS, Report
from ovsslib.evaluation.store import ResultsStore
from ovsslib.recipe import parse_changes
from ovsslib.study.claims import assess, configuration_key, load_claims


def report(recipe: Recipe | None = None, seed: int = 0, images: int = 12, **fields) -> Report:
    random = np.random.default_rng(seed)
    label = random.integers(0, 5000, (images, 3)) * (random.random((images, 3)) < 0.7)
    prediction = random.integers(0, 5000, (images, 3))
    counts = np.stack([np.minimum(label, prediction) // 2, prediction, label], axis=1)
    pixels = random.integers(1, 99, (images, 15))
    values = {
        "recipe": recipe or Recipe.named("sclip", "voc21"),
        "dataset": "voc21",
        "model": "ViT-B-16-quickgelu/openai",
        "names": ("zebra", "ant", "cat"),
        "counts": counts,
        "boundary_counts": random.integers(1, 40, (images, 4)),
        "calibration_counts": np.stack([pixels, pixels // 2, pixels * 400_000], axis=2),
        "indices": np.arange(images),
        "seconds_per_image": 0.5,
        "provenance": {"commit": "abc"},
    }
    return Report(**{**values, **fields})


MODEL = {"weights": "w", "configuration": {"activation": "gelu"}, "precision": "fp32"}


def parts(one: Report, **model) -> dict:
    return keys.evaluation_parts(one.recipe, {**MODEL, **model}, "d", one.images)


@pytest.fixture
def kept(tmp_path):
    return ResultsStore(tmp_path / "new", shipped=tmp_path / "shipped.sqlite")


def test_a_record_comes_back_as_it_was(kept):
    one = report(skipped=[("x", "broken")], limit=12, notes=["a note"])
    key = kept.put(parts(one), one)
    again = kept.get(parts(one))
    assert again.record() == one.record() and again.recipe == one.recipe
    for name in ("counts", "boundary_counts", "calibration_counts", "indices"):
        stored = getattr(again, name)
        np.testing.assert_array_equal(stored, getattr(one, name))
        assert stored.dtype == np.int64
    assert list(again.per_class.index) == ["zebra", "ant", "cat"]
    assert sorted(p.name for p in kept.folder.iterdir()) == [f"{key}.json", f"{key}.npz"]


def test_packed_counts_are_small_and_exact():
    random = np.random.default_rng(0)
    counts = np.zeros((400, 3, 34), dtype=np.int64)
    for image in range(400):
        used = random.choice(34, 8, replace=False)
        counts[image][:, used] = random.integers(0, 66752, (3, 8))
    calibration = np.zeros((400, 15, 3), dtype=np.int64)
    calibration[:, 3:9] = random.integers(0, 66752, (400, 6, 3))
    calibration[..., 2] *= 999_983
    one = report(
        counts=counts, calibration_counts=calibration, indices=np.arange(400), images=400,
        boundary_counts=random.integers(0, 2000, (400, 4)),
    )  # fmt: skip
    packed = pack_counts(one)
    assert len(packed) < 60_000
    assert packed == pack_counts(one)
    arrays = unpack_counts(packed)
    np.testing.assert_array_equal(arrays["classes"], counts)
    np.testing.assert_array_equal(arrays["calibration"], calibration)
    with pytest.raises(ValueError):
        unpack_counts(packed[:-200])


def test_no_image_and_no_pixel_are_kept_too():
    empty = report(
        counts=np.zeros((2, 3, 3), int), calibration_counts=np.zeros((2, 15, 3), int), images=2,
        indices=np.arange(2), boundary_counts=np.zeros((2, 4), int),
    )  # fmt: skip
    assert unpack_counts(pack_counts(empty))["classes"].shape == (2, 3, 3)
    assert empty.record()["metrics"]["miou"] == [None, None, None]


def test_every_part_of_the_key_matters(kept):
    one = report()
    kept.put(parts(one), one)
    for name in parts(one):
        assert kept.get({**parts(one), name: "other"}) is None
    for name in MODEL:
        assert kept.get(parts(one, **{name: "other"})) is None
    other = report(one.recipe.but({"labels.closing": 3}))
    assert kept.get(parts(other)) is None


def test_records_of_an_older_format_are_passed_over_in_silence(kept, recwarn):
    one = report()
    key = kept.put(parts(one), one)
    file = kept.folder / f"{key}.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": 1}))
    assert kept.get(parts(one)) is None and kept.frame().empty and list(kept.reports()) == []
    assert not recwarn.list


def test_damaged_records_count_as_absent(kept):
    one = report()
    path = kept.folder / f"{kept.put(parts(one), one)}.json"
    numbers = path.with_suffix(".npz")
    whole = numbers.read_bytes()
    numbers.write_bytes(whole[:-1])
    with pytest.warns(UserWarning, match="damaged"):
        assert kept.get(parts(one)) is None
    numbers.unlink()
    with pytest.warns(UserWarning, match="damaged"):
        assert kept.get(parts(one)) is None
    path.write_text(path.read_text()[:100])
    with pytest.warns(UserWarning, match="damaged"):
        assert kept.frame().empty
    kept.put(parts(one), one)
    assert kept.get(parts(one)).miou == one.miou


def test_disk_full_leaves_no_record(kept, monkeypatch):
    one = report()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match="No space left"):
        kept.put(parts(one), one)
    assert list(kept.folder.iterdir()) == []
    assert kept.get(parts(one)) is None


def test_shipped_records_are_found_and_never_written(tmp_path, kept):
    one = report()
    key = kept.put(parts(one), one)
    assert kept.ship([key]) == 1
    assert kept.ship([key], tmp_path / "elsewhere.sqlite") == 1
    fresh = ResultsStore(tmp_path / "empty", shipped=kept.shipped.path)
    assert fresh.get(parts(one)).miou == one.miou and fresh.ship([key]) == 0
    assert [record.key for record in kept.records()] == kept.keys() == fresh.keys() == [key]
    assert fresh.frame().equals(kept.frame()) and not fresh.folder.exists()
    with pytest.raises(DataError, match="no record nothing"):
        kept.ship(["nothing"])


def test_shipping_adds_to_the_file_or_replaces_it(kept):
    first, second = report(seed=1), report(Recipe.named("clip", "voc21"), seed=2)
    old, new = kept.put(parts(first), first), kept.put(parts(second), second)
    assert kept.ship([old]) == 1 and kept.ship([new]) == 1
    assert kept.shipped.keys() == sorted([old, new])
    assert kept.ship([new], drop_others=True) == 0 and kept.shipped.keys() == [new]


def test_equal_records_make_equal_files_in_whatever_order(tmp_path):
    rows = [("b", "two", b"2" * 9000), ("a", "one", b"1"), ("c", "three", b"")]
    write_records(tmp_path / "x.sqlite", rows)
    write_records(tmp_path / "y.sqlite", rows[::-1])
    content = (tmp_path / "x.sqlite").read_bytes()
    assert content == (tmp_path / "y.sqlite").read_bytes()
    assert content[96:100] == bytes(4)  # the one part that says which SQLite wrote it
    file = RecordsFile(tmp_path / "x.sqlite")
    assert [(r.key, r.text, r.read_counts()) for r in file] == sorted(rows)


def test_a_damaged_or_missing_file_of_records_counts_as_empty(tmp_path):
    assert RecordsFile(tmp_path / "none").keys() == []
    damaged = tmp_path / "a #?%20.sqlite"
    write_records(damaged, [("a", "one", b"1" * 90_000)])
    assert RecordsFile(damaged).keys() == ["a"]
    whole = damaged.read_bytes()
    for content in (b"version https://git-lfs.github.com/spec/v1\n", whole[:5000]):
        damaged.write_bytes(content)
        with pytest.warns(UserWarning, match="fetch it again|is damaged"):
            assert [r.report() for r in RecordsFile(damaged)] in ([], [None])


def test_shipped_records_are_read_where_nothing_can_be_written(tmp_path, kept, monkeypatch):
    one = report()
    kept.ship([kept.put(parts(one), one)])
    folder = tmp_path / "locked"
    folder.mkdir()
    (folder / "results.sqlite").write_bytes(kept.shipped.path.read_bytes())
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("OVSSLIB_CACHE", str(tmp_path / "file"))
    store = ResultsStore(shipped=folder / "results.sqlite")
    assert store.get(parts(one)).miou == one.miou and len(store.frame()) > 5
    with pytest.raises(DataError, match="OVSSLIB_CACHE"):
        store.put(parts(one), one)
    folder.chmod(0o700)


def test_frame_is_tidy_and_settles_claims(kept):
    base = report()
    changed = report(base.recipe.but({"pamr": True, "labels.closing": 3}, name="mine"), seed=1)
    part = report(seed=2, limit=12, recipe=Recipe.named("naclip", "voc21"))
    for one in (base, changed, part):
        kept.put(parts(one), one)
    frame = kept.frame()
    assert tuple(frame.columns) == store.COLUMNS
    assert set(METRICS) < set(frame["metric"]) and "class_iou:ant" in set(frame["metric"])
    row = frame[(frame["label"] == "mine") & (frame["metric"] == "miou")].iloc[0]
    assert row["recipe"] == "sclip" and row["changes"] == "pamr=true; labels.closing=3"
    assert row["value"] == round(changed.miou, 6)
    assert np.isnan(row["low"]) and np.isnan(row["high"]), "too few images for an interval"
    claims = load_claims()
    claims = claims[claims["dataset"] == "voc21"]
    some = assess(claims, frame)
    assert not some["status"].str.startswith("measured").any(), "12 images are not the data set"
    ledger = assess(claims, frame.assign(images=1449))
    measured = ledger[ledger["status"].str.startswith("measured")]
    assert len(measured) and set(measured["recipe"]) == {"sclip"}
    assert kept.frame(keys=[]).empty


def test_intervals_of_an_older_version_are_made_anew_from_the_counts(kept):
    one = report()
    key = kept.put(parts(one), one)
    before = kept.frame()
    path = kept.folder / f"{key}.json"
    content = json.loads(path.read_text())
    assert content.pop("intervals") == 2
    content["metrics"]["miou"] = [content["metrics"]["miou"][0], 1.0, 2.0]
    path.write_text(json.dumps(content))
    pd.testing.assert_frame_equal(kept.frame(), before)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"pamr": {"iterations": 3}, "labels.logit_scale": 41.5},
        {"attention": {"terms": "qq", "residual": False}, "windows.crop": 0},
        {"text.templates": ["a {}", "the {}."], "text.names": "readable"},
    ],
)
def test_changes_lead_back_to_the_recipe(changes):
    recipe = Recipe.named("sclip", "voc21").but(changes, name="other name")
    name, text = configuration(recipe, "voc21")
    rebuilt = Recipe.named(name, "voc21").but(parse_changes(p for p in text.split("; ") if p))
    assert rebuilt == recipe
    assert configuration_key(name, text, "voc21") == recipe.key()


def test_a_stage_that_is_taken_out_is_a_change():
    recipe = Recipe.named("itaclip", "voc21").but(pamr=False)
    assert configuration(recipe, "voc21") == ("itaclip", "pamr=false")


# -- words and further networks in the key --------------------------------------------------------------


def test_words_and_sentences_are_part_of_the_key():
    text = Recipe.named("itaclip", "voc21")["text"]
    vocabulary = text.vocabulary("voc21")
    first = keys.words_fingerprint(text, vocabulary)
    assert first == keys.words_fingerprint(text, text.vocabulary("voc21"))
    single = dataclasses.replace(text, prompts="single")
    unmixed = dataclasses.replace(text, auxiliary=None, auxiliary_weight=0.0)
    others = [
        keys.words_fingerprint(single, vocabulary),
        keys.words_fingerprint(unmixed, vocabulary),
        keys.words_fingerprint(
            text, dataclasses.replace(text, names="readable").vocabulary("voc21")
        ),
    ]
    assert len({first, *others}) == 4


def test_weights_of_further_networks_are_part_of_the_key(tmp_path):
    file = tmp_path / "loftup.safetensors"
    file.write_bytes(b"weights")
    recipe = small_recipe().but(upsampling={"method": "loftup", "weights": str(file)})
    first = keys.network_fingerprints(recipe, seeded_backbone())
    file.write_bytes(b"others")
    second = keys.network_fingerprints(recipe, seeded_backbone())
    assert set(first) == {"upsampling"} and set(first["upsampling"]) == {"loftup"}
    assert first != second
    assert keys.network_fingerprints(small_recipe(), seeded_backbone()) == {}


# -- the same request is never computed twice --------------------------------------------------------


def test_evaluate_looks_up_before_it_computes(tmp_path, kept, monkeypatch):
    monkeypatch.setenv("OVSSLIB_CACHE", str(tmp_path / "cache"))
    backbone, dataset = seeded_backbone(), small_dataset(tmp_path / "data", images=3)
    first = Segmenter(backbone, small_recipe())
    second = Segmenter(backbone, small_recipe(attention={"terms": "qq"}))
    one = evaluate(first, dataset, progress=False, store=kept)
    passes = []
    finish = Segmenter.finish
    monkeypatch.setattr(
        Segmenter, "finish", lambda self, *a, **k: passes.append(self) or finish(self, *a, **k)
    )
    renamed = Segmenter(backbone, small_recipe().but(name="renamed"))
    again = evaluate([renamed, second, second], dataset, progress=False, store=kept)
    assert passes == [second] * 3
    assert again[0].recipe.name == "renamed" and again[0].miou == one.miou
    assert again[1].miou == again[2].miou and len(list(kept.records())) == 2
    evaluate(first, dataset, progress=False, store=kept, fresh=True)
    assert len(passes) == 6
    record = next(iter(kept.records())).content()
    assert record["provenance"]["versions"]["torch"] and record["provenance"]["machine"]


def test_models_that_cannot_be_told_apart_are_not_kept(tmp_path, kept):
    backbone, dataset = seeded_backbone(), small_dataset(tmp_path / "data", images=1)
    backbone.weights_hash = ""
    evaluate(Segmenter(backbone, small_recipe()), dataset, progress=False, store=kept)
    assert list(kept.records()) == []
