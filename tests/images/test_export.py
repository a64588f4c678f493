import contextlib
import io
import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO

from ovsslib.errors import DataError, ImageError
from ovsslib.images.segmentation import Segmentation

NAMES = ["background", "brick wall", "dog", "unicorn"]


@pytest.fixture
def result() -> Segmentation:
    mask = np.zeros((30, 50), dtype=np.int32)
    mask[:, 25:] = 1
    mask[4:10, 5:12] = 2
    mask[20:22, 40:50] = 2
    image = np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    return Segmentation(mask, NAMES, image=image)


def as_coco(content: dict) -> COCO:
    """The content as pycocotools reads it, after a trip through JSON."""
    coco = COCO()
    coco.dataset = json.loads(json.dumps(content))
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def test_coco_tools_read_the_same_masks(result):
    coco = as_coco(result.to_coco(image_id=7, file_name="photo.jpg", first_id=100))
    assert coco.imgs[7] == {"id": 7, "file_name": "photo.jpg", "height": 30, "width": 50}
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == NAMES
    rebuilt = np.full(result.mask.shape, -1)
    for annotation in coco.loadAnns(coco.getAnnIds(imgIds=[7])):
        rebuilt[coco.annToMask(annotation) == 1] = annotation["category_id"] - 1
    np.testing.assert_array_equal(rebuilt, result.mask)
    assert sorted(coco.anns) == [100, 101, 102]  # no annotation for the word without a pixel


def test_coco_areas_and_boxes_are_those_of_the_run_lengths(result):
    for annotation in result.to_coco()["annotations"]:
        assert annotation["area"] == coco_masks.area(annotation["segmentation"])
        assert annotation["bbox"] == coco_masks.toBbox(annotation["segmentation"]).tolist()
        assert annotation["iscrowd"] == 0


def test_coco_pieces(result):
    coco = as_coco(result.to_coco(components=True))
    dogs = coco.loadAnns(coco.getAnnIds(catIds=[3]))
    assert [dog["area"] for dog in dogs] == [42, 20]
    assert [dog["bbox"] for dog in dogs] == [[5, 4, 7, 6], [40, 20, 10, 2]]


def test_cutouts_stack_to_the_picture(result, tmp_path):
    paths = result.cutouts(tmp_path / "layers")
    names = {word: path.name for word, path in paths.items()}
    assert names == {
        "background": "00_background.png",
        "brick wall": "01_brick-wall.png",
        "dog": "02_dog.png",
    }
    stack = Image.new("RGBA", (50, 30))
    for path in paths.values():
        with Image.open(path) as layer:
            assert layer.mode == "RGBA"
            stack.alpha_composite(layer)
    np.testing.assert_array_equal(np.asarray(stack)[..., :3], result.image)
    assert (np.asarray(stack)[..., 3] == 255).all()
    with Image.open(paths["dog"]) as layer:
        dog = np.asarray(layer)
    np.testing.assert_array_equal(dog[..., 3] == 255, result.mask == 2)
    assert (dog[result.mask != 2] == 0).all()


def test_words_cannot_escape_the_folder(tmp_path):
    names = ["../../etc", "a/b\\c:d", "éclair", "  ", "犬"]
    mask = np.arange(5, dtype=np.int32).reshape(1, 5)
    result = Segmentation(mask, names, image=np.zeros((1, 5, 3), np.uint8))
    paths = result.cutouts(tmp_path)
    assert [path.name for path in paths.values()] == [
        "00_etc.png",
        "01_a-b-c-d.png",
        "02_éclair.png",
        "03_word.png",
        "04_犬.png",
    ]
    assert sorted(tmp_path.iterdir()) == sorted(paths.values())  # and no temporary file is left


def test_cutouts_need_a_picture_and_a_folder(result, tmp_path):
    bare = Segmentation(result.mask, NAMES)
    with pytest.raises(ImageError, match="kept no picture"):
        bare.cutouts(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot make the folder"):
        result.cutouts(tmp_path / "file" / "layers")
