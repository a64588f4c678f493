"""Splits on disk: layout, resuming, manifests, and the committed validation split."""

import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from ovsslib import paths
from ovsslib.errors import DataError
from ovsslib.scenes import CLASSES, NATIVE_SIZE, SPLIT_SEEDS, dataset_files, draw, write_split
from ovsslib.scenes.dataset_files import balanced_indices, make_test_split, read_manifest

SEED = 7


def read(path):
    return np.asarray(Image.open(path))


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    folder = tmp_path_factory.mktemp("split")
    return folder, write_split(folder, 4, SEED, "small")


def test_layout_and_content(split):
    folder, report = split
    assert report.count == 4 and report.rounded_differently == 0
    for number in range(4):
        scene, name = draw(SEED, number), f"{number:06d}"
        assert np.array_equal(read(folder / f"annotations/small/{name}.png"), scene.labels)
        instances = read(folder / f"instances/small/{name}.png")
        assert instances.dtype == np.uint16 and np.array_equal(instances, scene.instances)
        assert np.array_equal(read(folder / f"parts/small/{name}.png"), scene.parts)
        image = read(folder / f"images/small/{name}.jpg").astype(int)
        assert np.abs(image - scene.image).mean() < 6
    lines = (folder / "captions/small.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["file"] for record in records] == [f"{n:06d}" for n in range(4)]
    assert all(len(record["captions"]) == 3 for record in records)
    assert not list(folder.rglob("*.partial"))


def test_a_stopped_run_goes_on(split):
    folder, _ = split
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    lost = [folder / "images/small/000002.jpg", folder / "captions/small.jsonl"]
    for path in lost:
        path.unlink()
    kept = folder / "annotations/small/000001.png"
    stamp = kept.stat().st_mtime_ns
    steps = []
    write_split(folder, 4, SEED, "small", progress=lambda done, count: steps.append((done, count)))
    assert {path: path.read_bytes() for path in before} == before
    assert kept.stat().st_mtime_ns == stamp
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_two_splits_do_not_mix(split):
    folder, _ = split
    with pytest.raises(DataError, match="another split"):
        write_split(folder, 4, SEED + 1, "small")
    with pytest.raises(DataError, match="0 pictures"):
        write_split(folder, 0, SEED, "none")


def test_balancing_is_deterministic_and_keeps_its_promise():
    indices = balanced_indices(SEED, 60, 1)
    assert indices == balanced_indices(SEED, 60, 1) and len(set(indices)) == 60
    shown = Counter()
    for index in indices:
        counts = np.bincount(draw(SEED, index).labels.ravel(), minlength=len(CLASSES))
        shown.update(np.flatnonzero(counts >= 64).tolist())
    assert min(shown[k] for k in range(len(CLASSES))) >= 1
    assert balanced_indices(SEED, 3, 0) == [0, 1, 2]
    with pytest.raises(DataError, match="ask for more pictures"):
        balanced_indices(SEED, 2, 1)


def expected_manifest(**changes):
    return {"seed": SEED, "minimum": 0, "pictures": [{"index": 0, "file": "000000", **changes}]}


def test_remade_pictures_are_checked_against_the_manifest(tmp_path, monkeypatch):
    write_split(tmp_path / "made", 1, SEED, "test")
    known = read_manifest(tmp_path / "made/manifests/test.json")["pictures"][0]
    shipped = tmp_path / "data/scenes/manifests/test.json"
    shipped.parent.mkdir(parents=True)
    monkeypatch.setattr(dataset_files.paths, "data", lambda name: tmp_path / "data" / name)

    def remake(name, **changes):
        shipped.write_text(json.dumps(expected_manifest(**(known | changes))))
        return make_test_split(tmp_path / name)

    assert remake("same").rounded_differently == 0
    assert remake("rounded", image="0" * 64).rounded_differently == 1
    with pytest.raises(DataError, match="masks differ"):
        remake("other", masks="0" * 64)
    with pytest.raises(DataError, match="mean"):
        remake("brighter", image="0" * 64, mean=known["mean"] + 3)
    shipped.write_text("{}")
    with pytest.raises(DataError, match="make the split anew"):
        make_test_split(tmp_path / "damaged")


def test_committed_validation_split():
    root = paths.data("scenes")
    manifest = read_manifest(root / "manifests/val.json")
    assert manifest["seed"] == SPLIT_SEEDS["val"] and manifest["classes"] == list(CLASSES)
    assert len(manifest["pictures"]) == 400
    shown = Counter()
    for picture in manifest["pictures"]:
        labels = read(root / f"annotations/val/{picture['file']}.png")
        assert labels.shape == NATIVE_SIZE and labels.max() < len(CLASSES)
        shown.update(np.flatnonzero(np.bincount(labels.ravel()) >= 64).tolist())
    assert min(shown[k] for k in range(len(CLASSES))) >= 25
    for kind, ending in (("images", "jpg"), ("instances", "png"), ("parts", "png")):
        assert len(list((root / kind / "val").glob(f"*.{ending}"))) == 400
    size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    assert size < 14e6


def test_committed_pictures_can_be_drawn_again():
    root = paths.data("scenes")
    for picture in read_manifest(root / "manifests/val.json")["pictures"][::130]:
        scene = draw(SPLIT_SEEDS["val"], picture["index"])
        labels = read(root / f"annotations/val/{picture['file']}.png")
        assert np.array_equal(labels, scene.labels)
        image = read(root / f"images/val/{picture['file']}.jpg").astype(int)
        assert np.abs(image - scene.image).mean() < 6


def test_committed_test_manifest():
    manifest = read_manifest(paths.data("scenes/manifests/test.json"))
    assert manifest["seed"] == SPLIT_SEEDS["test"] and len(manifest["pictures"]) == 400
    assert not (paths.data("scenes") / "images/test").exists()
    assert len(set(SPLIT_SEEDS.values())) == len(SPLIT_SEEDS)
