"""Every kind of data set, in its real layout, end to end; and what happens when files are bad."""

import pickle
import shutil

import numpy as np
import pytest
from fake_datasets import CLASSES, KINDS, build, write_mask
from PIL import Image

from ovsslib.datasets import label_tables as labels
from ovsslib.datasets.checking import check_dataset
from ovsslib.datasets.dataset import dataset_names, open_dataset, read_mask
from ovsslib.errors import DataError, ImageError
from ovsslib.images.pictures import read_picture


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_right_labels(tmp_path, kind):
    fake = build(kind, tmp_path)
    dataset = open_dataset(kind, root=fake.root)
    assert dataset.name == kind and dataset.classes == CLASSES[kind] and dataset.ignore_index == 255
    assert [name for _, _, name in dataset] == list(fake.names)
    for image, label, name in dataset:
        assert image.dtype == np.uint8 and image.shape == (*label.shape, 3)
        assert label.dtype == np.uint8
        assert np.array_equal(label, fake.labels[name])
        assert np.array_equal(image, read_picture(fake.images[name]))
    assert dataset.paths(1) == (fake.images[fake.names[1]], fake.masks[fake.names[1]])
    assert np.array_equal(dataset.label(-1), fake.labels[fake.names[-1]])


@pytest.mark.parametrize("kind", KINDS)
def test_vocabulary_fits_the_labels(tmp_path, kind):
    dataset = open_dataset(kind, root=build(kind, tmp_path, images=1).root)
    assert len(dataset.vocabulary.names) == dataset.classes


@pytest.mark.parametrize("kind", ["coco_stuff", "coco_object", "cityscapes"])
def test_raw_files_give_the_labels_of_converted_ones(tmp_path, kind):
    raw = build(kind, tmp_path / "raw", raw=True)
    converted = build(kind, tmp_path / "converted")
    first, second = open_dataset(kind, tmp_path / "raw"), open_dataset(kind, tmp_path / "converted")
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(one[1], other[1])
    assert raw.masks != converted.masks


def test_converted_files_are_preferred(tmp_path):
    fake = build("coco_stuff", tmp_path, images=1)
    write_mask(fake.root / f"annotations/val2017/{fake.names[0]}.png", np.zeros((24, 32), np.uint8))
    dataset = open_dataset("coco_stuff", tmp_path)
    assert len(dataset) == 1
    assert np.array_equal(dataset[0][1], fake.labels[fake.names[0]])


def test_coco_object_can_share_the_folder_of_coco_stuff(tmp_path):
    stuff = build("coco_stuff", tmp_path, raw=True)
    label = open_dataset("coco_object", tmp_path)[0][1]
    expected = stuff.labels[stuff.names[0]]
    assert np.array_equal(label, np.where(expected < 80, expected + 1, 0))


def test_root_from_the_environment(tmp_path, monkeypatch):
    build("ade20k", tmp_path)
    monkeypatch.setenv("OVSSLIB_DATA", str(tmp_path))
    assert len(open_dataset("ade20k")) == 3
    monkeypatch.delenv("OVSSLIB_DATA")
    with pytest.raises(DataError, match="OVSSLIB_DATA"):
        open_dataset("ade20k")


def test_reduce_zero_label_is_mmsegmentations_rule():
    stored = np.arange(256).astype(np.uint8)
    rule = stored.copy()
    rule[rule == 0] = 255
    rule = rule - 1
    rule[rule == 254] = 255
    table = labels.reduce_zero_label(150)
    assert np.array_equal(table[:151], rule[:151]) and table[255] == rule[255] == 255
    assert (table[151:255] == labels.INVALID).all()


def test_coco_tables_by_known_categories():
    stuff, objects = labels.coco_stuff_raw(), labels.coco_object_raw()
    # category ids: person 1, traffic light 10, fire hydrant 11, stop sign 13, toothbrush 90,
    # banner 92, wood 182
    assert [stuff[i - 1] for i in (1, 10, 11, 13, 90, 92, 182)] == [0, 9, 10, 11, 79, 80, 170]
    assert [objects[i - 1] for i in (1, 13, 90, 92, 182)] == [1, 12, 80, 0, 0]
    assert stuff[255] == 255 and objects[255] == 0
    assert sorted(stuff[stuff >= 0]) == [*range(171), 255]
    assert (stuff[list(labels.COCO_MISSING)] == labels.INVALID).all()


def test_context_ranks():
    assert len(labels.CONTEXT_IDS) == 60 and list(labels.CONTEXT_IDS) == sorted(labels.CONTEXT_IDS)
    stored = np.array([[0, 1, 2, 9, 458, 459]])
    assert labels.context_ranks(stored, "x").tolist() == [[0, 0, 1, 2, 59, 0]]
    with pytest.raises(DataError, match="0..459"):
        labels.context_ranks(np.array([[460]]), "x")


def test_limit_and_slices(tmp_path):
    fake = build("voc21", tmp_path)
    whole = open_dataset("voc21", tmp_path)
    assert len(open_dataset("voc21", tmp_path, limit=2)) == 2
    assert len(open_dataset("voc21", tmp_path, limit=99)) == 3
    assert [name for _, _, name in whole[1:]] == list(fake.names[1:])
    assert np.array_equal(whole[-1][1], whole[2][1])
    for limit in (0, -1, 1.5):
        with pytest.raises(DataError, match="limit"):
            open_dataset("voc21", tmp_path, limit=limit)
    with pytest.raises(IndexError):
        whole[3]


def test_dataset_can_be_sent_to_workers(tmp_path):
    build("voc20", tmp_path)
    dataset = open_dataset("voc20", tmp_path)
    copy = pickle.loads(pickle.dumps(dataset))
    assert np.array_equal(copy[1][1], dataset[1][1])
    assert copy.fingerprint() == dataset.fingerprint()


def test_fingerprint_follows_the_content_and_not_the_place(tmp_path):
    fake = build("coco_stuff", tmp_path / "a")
    first = open_dataset("coco_stuff", tmp_path / "a").fingerprint()
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert open_dataset("coco_stuff", tmp_path / "b").fingerprint() == first
    assert open_dataset("coco_stuff", tmp_path / "b", limit=2).fingerprint() != first
    copied = tmp_path / "b" / fake.masks[fake.names[0]].relative_to(tmp_path / "a")
    changed = read_mask(copied).copy()
    changed[0, 0] = 5
    write_mask(copied, changed)
    assert open_dataset("coco_stuff", tmp_path / "b").fingerprint() != first


def test_fingerprint_sees_another_image_of_the_same_size_in_bytes(tmp_path):
    fake = build("folder", tmp_path / "a")
    dataset = open_dataset("folder", fake.root)
    first = dataset.fingerprint()
    file = dataset.paths(0)[0]
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    assert dataset.fingerprint() != first
    assert open_dataset("folder", fake.root).fingerprint() != first


def test_fingerprints_of_views_differ(tmp_path):
    build("voc21", tmp_path)
    assert (
        open_dataset("voc21", tmp_path).fingerprint()
        != open_dataset("voc20", tmp_path).fingerprint()
    )


def test_folder_with_masks_words_and_other_names(tmp_path):
    for folder in ("img_dir/val", "masks/val"):
        (tmp_path / folder).mkdir(parents=True)
    Image.new("RGB", (5, 4)).save(tmp_path / "img_dir/val/a.png")
    write_mask(tmp_path / "masks/val/a.png", np.full((4, 5), 1, np.uint8))
    dataset = open_dataset("folder", tmp_path, words=["cat", "dog, hound"])
    assert dataset.classes == 2 and (dataset[0][1] == 1).all()
    assert list(dataset.vocabulary.names) == ["cat", "dog"]
    assert tuple(dataset.vocabulary.synonyms[1]) == ("dog", "hound")


def test_folder_with_more_than_255_classes(tmp_path):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (3, 1)).save(tmp_path / "images/a.png")
    values = np.array([[0, 299, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "masks/a.png")
    words = [f"word {index}" for index in range(300)]
    dataset = open_dataset("folder", tmp_path, words=words)
    label = dataset[0][1]
    assert dataset.ignore_index == 65535
    assert label.dtype == np.int32 and label.tolist() == [[0, 299, 65535]]
    Image.fromarray(values + 1).save(tmp_path / "masks/a.png")
    with pytest.raises(DataError, match="300"):
        dataset[0]


def test_folder_errors(tmp_path):
    fake = build("folder", tmp_path)
    with pytest.raises(DataError, match="words"):
        open_dataset("folder", fake.root, words=["", " "])
    with pytest.raises(DataError, match="two classes.*'dog'"):
        open_dataset("folder", fake.root, words=["dog", "cat", "dog, hound"])
    Image.new("RGB", (3, 1)).save(fake.root / f"images/{fake.names[0]}.png")
    with pytest.raises(DataError, match="two images"):
        open_dataset("folder", fake.root)
    (fake.root / "words.txt").unlink()
    with pytest.raises(DataError, match="words.txt"):
        open_dataset("folder", fake.root)


def test_unknown_names_are_listed(tmp_path):
    with pytest.raises(DataError, match="voc21.*folder"):
        open_dataset("voc", tmp_path)
    build("voc21", tmp_path)
    with pytest.raises(DataError, match="no split 'test'"):
        open_dataset("voc21", tmp_path, split="test")
    with pytest.raises(DataError, match="own words"):
        open_dataset("voc21", tmp_path, words=["a"])
    assert set(dataset_names()) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_missing_folders_are_named(tmp_path, kind):
    with pytest.raises(DataError, match="nowhere"):
        open_dataset(kind, tmp_path / "nowhere")
    with pytest.raises(DataError) as caught:
        open_dataset(kind, tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("kind", ["voc21", "ade20k", "cityscapes", "folder"])
def test_missing_mask_is_named_when_it_is_needed(tmp_path, kind):
    fake = build(kind, tmp_path)
    missing = fake.masks[fake.names[1]]
    missing.unlink()
    dataset = open_dataset(kind, fake.root)
    assert dataset[0][2] == fake.names[0]
    with pytest.raises(DataError) as caught:
        dataset[1]
    assert str(missing) in str(caught.value)
    with pytest.raises(DataError, match="missing"):
        dataset.fingerprint()


def test_missing_list_and_empty_folder(tmp_path):
    fake = build("voc21", tmp_path)
    (fake.root / "ImageSets/Segmentation/val.txt").unlink()
    with pytest.raises(DataError, match="val.txt"):
        open_dataset("voc21", tmp_path)
    (tmp_path / "ADEChallengeData2016/images/validation").mkdir(parents=True)
    with pytest.raises(DataError, match="annotations/validation"):
        open_dataset("ade20k", tmp_path)
    (tmp_path / "ADEChallengeData2016/annotations/validation").mkdir(parents=True)
    with pytest.raises(DataError, match="no images"):
        open_dataset("ade20k", tmp_path)


def test_image_listed_but_missing(tmp_path):
    fake = build("voc21", tmp_path)
    fake.images[fake.names[0]].unlink()
    with pytest.raises(ImageError, match=fake.names[0]):
        open_dataset("voc21", tmp_path)[0]


def bad_masks():
    colour = np.zeros((24, 32, 3), np.uint8)
    return {
        "other size": (np.zeros((24, 31), np.uint8), "31 x 24"),
        "out of range": (np.full((24, 32), 21, np.uint8), "21"),
        "colour": (colour, "RGB"),
        "sixteen bits": (np.full((24, 32), 300, np.uint16), "300"),
    }


@pytest.mark.parametrize("case", list(bad_masks()))
def test_bad_masks_are_named(tmp_path, case):
    values, reason = bad_masks()[case]
    fake = build("voc21", tmp_path)
    path = fake.masks[fake.names[0]]
    Image.fromarray(values).save(path)
    with pytest.raises(DataError, match=reason) as caught:
        open_dataset("voc21", tmp_path)[0]
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("part", [0.0, 0.5])
def test_damaged_masks_are_named(tmp_path, part):
    fake = build("voc21", tmp_path)
    path = fake.masks[fake.names[0]]
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(DataError, match=fake.names[0]):
        open_dataset("voc21", tmp_path)[0]


def test_unconverted_coco_in_converted_names_is_found_out(tmp_path):
    fake = build("coco_stuff", tmp_path, images=1)
    write_mask(fake.masks[fake.names[0]], np.full((24, 32), 181, np.uint8))
    with pytest.raises(DataError, match="181.*converted"):
        open_dataset("coco_stuff", tmp_path)[0]


def test_one_bit_and_sixteen_bit_masks(tmp_path):
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "one.png")
    assert read_mask(tmp_path / "one.png").tolist() == [[1, 0]]
    Image.fromarray(np.array([[7, 40]], dtype=np.uint16)).save(tmp_path / "deep.png")
    assert read_mask(tmp_path / "deep.png").tolist() == [[7, 40]]


@pytest.mark.parametrize("kind", KINDS)
def test_check_of_a_sound_data_set(tmp_path, kind):
    fake = build(kind, tmp_path)
    problems = check_dataset(kind, fake.root, progress=False)
    counted = not kind.startswith("scenes") and kind != "folder"
    assert len(problems) == counted
    assert all("3 images, expected" in problem for problem in problems)


def test_check_finds_every_problem_and_goes_on(tmp_path):
    fake = build("folder", tmp_path, images=6)
    one, two, three, four, five, _ = fake.names
    fake.masks[one].unlink()
    write_mask(fake.masks[two], np.zeros((3, 3), np.uint8))
    write_mask(fake.masks[three], np.full((16, 40), 77, np.uint8))
    fake.images[four].write_bytes(fake.images[four].read_bytes()[:300])
    fake.images[five].write_bytes(b"")
    write_mask(fake.root / "annotations/orphan.png", np.zeros((3, 3), np.uint8))
    problems = check_dataset("folder", fake.root, progress=False)
    assert len(problems) == 6
    hints = ("missing", "3 x 3", "77", "cannot be read", "0 bytes", "has no image")
    for problem, hint, name in zip(problems, hints, [*fake.names[:5], "orphan"], strict=True):
        assert hint in problem and name in problem and "\n" not in problem


def test_check_reports_what_cannot_be_opened(tmp_path):
    (problem,) = check_dataset("voc21", tmp_path / "nowhere", progress=False)
    assert "nowhere" in problem


def test_check_reports_classes_that_never_occur(tmp_path, monkeypatch):
    from ovsslib.datasets import dataset as datasets

    build("ade20k", tmp_path)
    monkeypatch.setitem(datasets.VIEWS, "ade20k", (*datasets.VIEWS["ade20k"][:3], 3))
    (problem,) = check_dataset("ade20k", tmp_path, progress=False)
    assert "never occur" in problem


def test_the_shipped_scenes_need_no_root():
    whole, objects, things = (
        open_dataset(name, limit=4) for name in ("scenes", "scenes-object", "scenes-things")
    )
    for index in range(4):
        image, label, name = whole[index]
        assert image.shape == (224, 298, 3) and name == objects[index][2] == things[index][2]
        stuff = label < 14
        assert np.array_equal(objects[index][1], np.where(stuff, 0, label - 13))
        assert np.array_equal(things[index][1], np.where(stuff, 255, label - 14))
    assert len({data.fingerprint() for data in (whole, objects, things)}) == 3


@pytest.mark.parametrize("name", ["scenes", "scenes-object", "scenes-things"])
def test_nothing_is_wrong_with_the_shipped_scenes(name):
    assert check_dataset(name, progress=False) == []
    assert len(open_dataset(name)) == 400


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_other_splits_of_scenes(tmp_path, split):
    fake = build("scenes", tmp_path)
    for folder in ("images", "annotations"):
        (fake.root / folder / "val").rename(fake.root / folder / split)
    assert len(open_dataset("scenes", tmp_path, split=split)) == 3
    with pytest.raises(DataError, match="ovss scenes test"):
        open_dataset("scenes", tmp_path)


def test_other_splits(tmp_path):
    voc = build("voc21", tmp_path)
    lists = voc.root / "ImageSets/Segmentation"
    (lists / "train.txt").write_text(f"{voc.names[1]}\n\n")
    assert open_dataset("voc21", tmp_path, split="train")[0][2] == voc.names[1]
