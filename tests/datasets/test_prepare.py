"""Converting raw label files: right, resumable, and never half a file."""

import errno
import json
import os

import numpy as np
import pytest
from fake_datasets import build, write_mask
from PIL import Image
from pycocotools import mask as run_length
from scipy.io import savemat

from ovsslib.datasets import label_tables as labels
from ovsslib.datasets import prepare
from ovsslib.datasets.dataset import open_dataset, read_mask
from ovsslib.datasets.prepare import prepare_dataset
from ovsslib.errors import DataError

CONVERTED = {
    "coco_stuff": "_labelTrainIds.png",
    "coco_object": "_instanceTrainIds.png",
    "cityscapes": "_gtFine_labelTrainIds.png",
}


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("kind", list(CONVERTED))
def test_converted_files_stand_alone(tmp_path, kind):
    fake = build(kind, tmp_path, raw=True)
    done = prepare_dataset(kind, tmp_path, progress=False)
    assert (done.written, done.kept, done.problems) == (3, 0, [])
    for path in fake.masks.values():
        path.unlink()
    dataset = open_dataset(kind, tmp_path)
    for index, (_, label, name) in enumerate(dataset):
        assert dataset.paths(index)[1].name.endswith(CONVERTED[kind])
        assert np.array_equal(label, fake.labels[name])


@pytest.mark.parametrize("kind", list(CONVERTED))
def test_second_run_does_nothing_unless_told(tmp_path, kind):
    build(kind, tmp_path, raw=True)
    prepare_dataset(kind, tmp_path, progress=False)
    before = {path: path.stat().st_mtime_ns for path in files(tmp_path)}
    again = prepare_dataset(kind, tmp_path, progress=False)
    assert (again.written, again.kept) == (0, 3)
    assert {path: path.stat().st_mtime_ns for path in files(tmp_path)} == before
    assert prepare_dataset(kind, tmp_path, overwrite=True, progress=False).written == 3


def test_coco_stuff_and_object_side_by_side(tmp_path):
    fake = build("coco_stuff", tmp_path, raw=True)
    prepare_dataset("coco_stuff", tmp_path, progress=False)
    done = prepare_dataset("coco_object", tmp_path, progress=False)
    assert done.written == 3, "converted files are not converted again"
    stuff = fake.labels[fake.names[0]]
    assert np.array_equal(open_dataset("coco_stuff", tmp_path)[0][1], stuff)
    expected = np.where(stuff < 80, stuff + 1, 0)
    assert np.array_equal(open_dataset("coco_object", tmp_path)[0][1], expected)


def test_interrupted_run_goes_on(tmp_path, monkeypatch):
    fake = build("coco_stuff", tmp_path, images=4, raw=True)
    save = Image.Image.save

    def stop_in_the_middle(self, target, *args, **kwargs):
        if fake.names[2] in str(target):
            target.write_bytes(b"half a file")
            raise KeyboardInterrupt
        return save(self, target, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "save", stop_in_the_middle)
    with pytest.raises(KeyboardInterrupt):
        prepare_dataset("coco_stuff", tmp_path, progress=False)
    assert len(files(tmp_path)) == 4 + 4 + 2, "nothing half-written is left"
    monkeypatch.undo()
    done = prepare_dataset("coco_stuff", tmp_path, progress=False)
    assert (done.written, done.kept) == (2, 2)
    for _, label, name in open_dataset("coco_stuff", tmp_path):
        assert np.array_equal(label, fake.labels[name])


def test_full_disk_is_an_error_and_leaves_nothing(tmp_path, monkeypatch):
    build("cityscapes", tmp_path, raw=True)
    before = files(tmp_path)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(prepare.os, "replace", full)
    with pytest.raises(
        DataError, match="No space left.*labelTrainIds|labelTrainIds.*No space left"
    ):
        prepare_dataset("cityscapes", tmp_path, progress=False)
    assert files(tmp_path) == before


def test_bad_sources_are_listed_and_the_rest_done(tmp_path):
    fake = build("coco_stuff", tmp_path, raw=True)
    fake.masks[fake.names[0]].write_bytes(b"")
    write_mask(fake.masks[fake.names[2]], np.full((16, 40), 11, np.uint8))
    done = prepare_dataset("coco_stuff", tmp_path, progress=False)
    assert done.written == 1 and len(done.problems) == 2
    assert fake.names[0] in done.problems[0] and "0 bytes" in done.problems[0]
    assert fake.names[2] in done.problems[1] and "label 11" in done.problems[1]
    assert str(done) == "1 label files written, 0 were there already, 2 problems"


def context_labels(size, seed):
    """Original ids (of 459) with frequent and rare classes, and the labels they stand for."""
    random = np.random.default_rng(seed)
    ids = random.choice([0, 2, 9, 31, 300, 397, 458, 459], size)
    names = {0: 0, 2: 1, 9: 2, 31: 8, 300: 0, 397: 50, 458: 59, 459: 0}
    return ids, np.vectorize(names.get)(ids).astype(np.uint8)


def context_root(tmp_path):
    """Images of VOC 2010 without labels."""
    base = tmp_path / "VOCdevkit/VOC2010"
    (base / "JPEGImages").mkdir(parents=True)
    for index in range(3):
        Image.new("RGB", (12, 10)).save(base / f"JPEGImages/2008_00000{index}.jpg")
    return base


def detail_json(listed=False):
    """A small trainval_merged.json: images 0 and 2 are val, 1 is train."""
    images, regions, expected = [], [], {}
    for index, phase in enumerate(("val", "train", "val")):
        name = f"2008_00000{index}"
        ids, ranks = context_labels((10, 12), index)
        allowed = np.isin(ids, labels.CONTEXT_IDS)
        ids, expected[name] = np.where(allowed, ids, 0), ranks
        one = {"image_id": 2008000000 + index, "file_name": f"{name}.jpg", "phase": phase}
        images.append(one | {"height": 10, "width": 12})
        everywhere = np.ones((10, 12), dtype=bool)
        # The first region covers all and is painted over, save where nothing else is.
        for value, mask in [(2, everywhere), *((v, ids == v) for v in np.unique(ids))]:
            code = run_length.encode(np.asfortranarray(mask.astype(np.uint8)))
            counts = code["counts"].decode()
            if listed:
                flat = mask.ravel(order="F").astype(int)
                edges = np.flatnonzero(np.diff(np.concatenate([[0], flat])))
                counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
            region = {"size": [10, 12], "counts": counts}
            regions.append(
                {"image_id": one["image_id"], "category_id": int(value), "segmentation": region}
            )
    return {"images": images, "annos_segmentation": regions}, expected


@pytest.mark.parametrize("listed", [False, True])
def test_context_from_the_detail_file(tmp_path, listed):
    base = context_root(tmp_path)
    content, expected = detail_json(listed)
    (base / "trainval_merged.json").write_text(json.dumps(content))
    done = prepare_dataset("context60", tmp_path, progress=False)
    assert (done.written, done.problems) == (2, [])
    dataset = open_dataset("context60", tmp_path)
    assert [name for _, _, name in dataset] == ["2008_000000", "2008_000002"]
    for _, label, name in dataset:
        assert np.array_equal(label, expected[name])
    reduced = open_dataset("context59", tmp_path)[0][1]
    first = expected["2008_000000"].astype(int)
    assert np.array_equal(reduced, np.where(first == 0, 255, first - 1))
    prepare_dataset("context59", tmp_path, split="train", progress=False)
    assert len(open_dataset("context59", tmp_path, split="train")) == 1


def test_context_from_mat_files(tmp_path):
    base = context_root(tmp_path)
    source = tmp_path / "mat"
    source.mkdir()
    expected = {}
    for index in range(3):
        ids, expected[f"2008_00000{index}"] = context_labels((10, 12), index)
        savemat(source / f"2008_00000{index}.mat", {"LabelMap": ids.astype(np.uint16)})
    (base / "ImageSets/Main").mkdir(parents=True)
    (base / "ImageSets/Main/val.txt").write_text("2008_000001\n2008_000002\n2009_000007\n")
    done = prepare_dataset("context60", base, source=source, progress=False)
    assert done.written == 2
    dataset = open_dataset("context60", tmp_path)
    assert len(dataset) == 2
    for _, label, name in dataset:
        assert np.array_equal(label, expected[name])


def test_damaged_context_sources(tmp_path):
    base = context_root(tmp_path)
    with pytest.raises(DataError, match="trainval_merged.json"):
        prepare_dataset("context60", tmp_path, progress=False)
    with pytest.raises(DataError, match="nowhere"):
        prepare_dataset("context60", tmp_path, source=tmp_path / "nowhere", progress=False)
    (base / "trainval_merged.json").write_text("{}")
    with pytest.raises(DataError, match="images"):
        prepare_dataset("context60", tmp_path, progress=False)
    content, _ = detail_json()
    content["annos_segmentation"][0]["segmentation"] = {"size": [3, 3], "counts": "01"}
    (base / "trainval_merged.json").write_text(json.dumps(content))
    done = prepare_dataset("context60", tmp_path, progress=False)
    assert done.written == 1 and "2008_000000" in done.problems[0]
    assert len(open_dataset("context60", tmp_path)) == 1, "the list holds what could be converted"
    (tmp_path / "mat").mkdir()
    (tmp_path / "mat/2008_000001.mat").write_bytes(b"no matlab file")
    with pytest.raises(DataError, match="Main"):
        prepare_dataset("context60", tmp_path, source=tmp_path / "mat", progress=False)


def test_unreadable_mat_is_a_problem(tmp_path):
    base = context_root(tmp_path)
    (tmp_path / "mat").mkdir()
    (tmp_path / "mat/2008_000001.mat").write_bytes(b"no matlab file")
    (base / "ImageSets/Main").mkdir(parents=True)
    (base / "ImageSets/Main/val.txt").write_text("2008_000001\n")
    done = prepare_dataset("context60", tmp_path, source=tmp_path / "mat", progress=False)
    assert done.written == 0 and "2008_000001.mat" in done.problems[0]


@pytest.mark.parametrize("name", ["coco_stuff", "coco_object", "cityscapes", "context60"])
def test_missing_folders(tmp_path, name):
    with pytest.raises(DataError, match=str(tmp_path)):
        prepare_dataset(name, tmp_path, progress=False)


def test_empty_folders_and_unknown_requests(tmp_path):
    (tmp_path / "annotations/val2017").mkdir(parents=True)
    (tmp_path / "gtFine/val/ulm").mkdir(parents=True)
    for name, reason in (("coco_object", "stuffthingmaps"), ("cityscapes", "labelIds")):
        with pytest.raises(DataError, match=reason):
            prepare_dataset(name, tmp_path, progress=False)
    with pytest.raises(DataError, match="nothing to prepare for 'voc21'"):
        prepare_dataset("voc21", tmp_path)
    with pytest.raises(DataError, match="unknown split 'test'"):
        prepare_dataset("coco_stuff", tmp_path, split="test")


def test_saved_masks_are_read_back(tmp_path):
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    prepare.save_mask(tmp_path / "new/mask.png", values)
    assert np.array_equal(read_mask(tmp_path / "new/mask.png"), values)
    assert os.listdir(tmp_path / "new") == ["mask.png"]
