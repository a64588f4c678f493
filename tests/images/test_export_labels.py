"""Masks in other tools' formats give the same masks back."""

import sys
import types

import cv2
import numpy as np
import pytest
from PIL import Image

from ovsslib.errors import MissingPackageError
from ovsslib.images.export_labels import brush_runs
from ovsslib.images.segmentation import Segmentation


@pytest.fixture
def result():
    mask = np.zeros((50, 70), dtype=np.int32)
    mask[5:20, 5:30] = 1
    mask[10:14, 10:20] = 0  # a hole
    mask[30:45, 40:69] = 2
    mask[30:34, 2:9] = 2
    sure = np.full(mask.shape, 0.5, dtype=np.float32)
    return Segmentation(
        mask, ["background", "dog", "cat"], confidence=sure, recipe="sclip", model="m"
    )


class Bits:
    """Reads numbers from a stream of bytes, highest bit first."""

    def __init__(self, content):
        self.bits, self.at = "".join(f"{byte:08b}" for byte in content), 0

    def read(self, count):
        self.at += count
        return int(self.bits[self.at - count : self.at], 2)


def unpacked(content):
    """Values of a brush mask, by the documented format: repeated values and single ones."""
    stream = Bits(content)
    total, word = stream.read(32), stream.read(5) + 1
    lengths = [stream.read(4) + 1 for _ in range(4)]
    values = []
    while len(values) < total:
        repeated = stream.read(1)
        count = stream.read(lengths[stream.read(2)]) + 1
        values += (
            [stream.read(word)] * count if repeated else [stream.read(word) for _ in range(count)]
        )
    assert len(values) == total
    return np.array(values, dtype=np.uint8)


def test_brush_masks_decode_to_the_same_masks(result):
    task = result.to_label_studio("/data/a.jpg")
    regions = task["predictions"][0]["result"]
    assert task["data"] == {"image": "/data/a.jpg"}
    assert [r["value"]["brushlabels"] for r in regions] == [["dog"], ["cat"]]
    for region in regions:
        values = unpacked(region["value"]["rle"]).reshape(50, 70, 4)
        assert (region["original_height"], region["original_width"]) == (50, 70)
        expected = result.mask_of(region["value"]["brushlabels"][0])
        for channel in range(4):
            assert np.array_equal(values[..., channel], 255 * expected.astype(np.uint8))
    pieces = result.to_label_studio("a", components=True)["predictions"][0]["result"]
    assert len(pieces) == 3 and len({piece["id"] for piece in pieces}) == 3


@pytest.mark.parametrize("seed", range(3))
def test_brush_masks_of_noise_and_of_long_runs(seed):
    noise = np.random.default_rng(seed).random((17, 23)) < (0.5, 0.02, 0.98)[seed]
    large = np.zeros((300, 400), dtype=bool)
    large[-1, -1] = True
    for mask in (noise, large, ~np.zeros((3, 3), dtype=bool)):
        values = unpacked(brush_runs(mask)).reshape(*mask.shape, 4)
        assert np.array_equal(values[..., 3] == 255, mask)


def test_polygons_fill_to_the_same_masks(result):
    found = result.to_polygons()
    assert [piece["name"] for piece in found].count("cat") == 2
    for piece in (one for one in found if not one["holes"]):
        canvas = np.zeros(result.mask.shape, dtype=np.uint8)
        cv2.fillPoly(canvas, [np.array(piece["outline"])], 1)
        assert (result.mask[canvas > 0] == piece["label"]).all() and canvas.any()
    assert len(next(one for one in found if one["name"] == "dog")["holes"]) == 1
    assert len(result.to_polygons(3)[1]["outline"]) <= len(found[1]["outline"])


def test_a_plain_mask_is_read_by_every_reader_and_a_palette_by_pillow(result, tmp_path):
    plain = result.save(tmp_path / "plain.png", palette=False)
    coloured = result.save(tmp_path / "coloured.png")
    assert np.array_equal(cv2.imread(str(plain), cv2.IMREAD_GRAYSCALE), result.mask)
    assert np.array_equal(np.asarray(Image.open(plain)), result.mask)
    assert np.array_equal(np.asarray(Image.open(coloured)), result.mask)
    assert not np.array_equal(
        cv2.imread(str(coloured), cv2.IMREAD_GRAYSCALE), result.mask
    )  # as documented


def test_other_libraries_get_what_they_take(result, monkeypatch):
    class Kept(dict):
        def __init__(self, **given):
            super().__init__(given)

    monkeypatch.setitem(sys.modules, "supervision", types.SimpleNamespace(Detections=Kept))
    monkeypatch.setitem(
        sys.modules, "fiftyone", types.SimpleNamespace(Sample=Kept, Segmentation=Kept)
    )
    found = result.to_supervision()
    assert found["class_id"].tolist() == [1, 2, 2] and found["mask"].shape == (3, 50, 70)
    assert found["xyxy"][0].tolist() == [5, 5, 30, 20] and found["confidence"].tolist() == [0.5] * 3
    sample = result.to_fiftyone("a.jpg", "mine")
    assert np.array_equal(sample["mine"]["mask"], result.mask) and sample["filepath"].endswith(
        "a.jpg"
    )
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(MissingPackageError, match="pip install supervision"):
        result.to_supervision()
