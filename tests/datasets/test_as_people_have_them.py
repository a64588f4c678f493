"""Folders as people have them: links, marks of other systems, masks of 0 and 255, changed images of equal size."""

import os

import numpy as np
import pytest
from engine_cases import seeded_backbone, small_recipe
from PIL import Image

from ovsslib import Segmenter, evaluate
from ovsslib.datasets.checking import check_dataset
from ovsslib.datasets.dataset import open_dataset
from ovsslib.errors import DataError
from ovsslib.text.vocabulary import Vocabulary


def folder(root, values=(0, 1), words="background\ndog\n"):
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for index in range(3):
        picture = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(picture).save(root / f"images/{index}.png")
        mask = np.full((64, 64), values[0], dtype=np.uint8)
        mask[16:48, 16:48] = values[1]
        Image.fromarray(mask).save(root / f"masks/{index}.png")
    (root / "words.txt").write_text(words, encoding="utf-8")
    return root


def test_masks_of_0_and_255_are_found(tmp_path):
    root = folder(tmp_path / "d", values=(0, 255))
    (problem,) = check_dataset("folder", root, progress=False)
    assert "labels 1 never occur, but 255 does" in problem
    segmenter = Segmenter(seeded_backbone(), small_recipe())
    with pytest.warns(UserWarning, match="masks of 0 and 255 must become 0 and 1"):
        evaluate(segmenter, open_dataset("folder", root), store=False, progress=False)


def test_label_maps_that_are_all_ignored_measure_nothing(tmp_path):
    root = folder(tmp_path / "d", values=(255, 255))
    assert (
        "every pixel of every label map is ignored"
        in check_dataset("folder", root, progress=False)[0]
    )
    segmenter = Segmenter(seeded_backbone(), small_recipe())
    with pytest.raises(DataError, match="every pixel of every label map is ignored"):
        evaluate(segmenter, open_dataset("folder", root), store=False, progress=False)


def test_a_data_set_whose_images_are_all_skipped_measures_nothing(tmp_path):
    root = folder(tmp_path / "d")
    for file in (root / "images").iterdir():
        file.write_bytes(b"no picture")
    segmenter = Segmenter(seeded_backbone(), small_recipe())
    with pytest.raises(DataError, match="all 3 images were skipped"):
        evaluate(
            segmenter, open_dataset("folder", root), store=False, progress=False, on_error="skip"
        )


def test_words_file_with_a_mark_and_hidden_files(tmp_path):
    root = folder(tmp_path / "d", words="\ufeffbackground\r\ndog;puppy\r\n")
    (root / "images/._0.png").write_bytes(b"resource fork")
    data = open_dataset("folder", root)
    assert len(data) == 3
    assert data.vocabulary.names == ("background", "dog")
    assert data.vocabulary.synonyms[1] == ("dog", "puppy")


def test_linked_folders_and_images_belong_to_a_data_set(tmp_path):
    whole = folder(tmp_path / "real")
    linked = tmp_path / "linked"
    linked.mkdir()
    for name in ("images", "masks"):
        os.symlink(whole / name, linked / name)
    os.symlink(whole / "words.txt", linked / "words.txt")
    assert len(open_dataset("folder", linked)) == 3


def test_other_images_of_equal_size_are_another_data_set(tmp_path):
    root = folder(tmp_path / "d")
    before = open_dataset("folder", root).fingerprint()
    file = root / "images/0.png"
    content = bytearray(file.read_bytes())
    content[-20] ^= 1
    stamp = file.stat()
    file.write_bytes(content)
    os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns + 1))
    assert open_dataset("folder", root).fingerprint() != before


def test_lines_of_words_are_read_like_any_file_of_classes(tmp_path):
    """A comment or an empty line must not move the classes against their labels."""
    for words in ("# two\nbackground\ndog\n", "0: background\n1: dog", "- background\n- dog"):
        opened = open_dataset("folder", folder(tmp_path / str(len(words)), words=words))
        assert opened.vocabulary.names == ("background", "dog") and opened.classes == 2
    with pytest.raises(DataError, match=r"words.txt: line 2 is empty"):
        open_dataset("folder", folder(tmp_path / "gap", words="background\n\ndog\ncat\n"))
    with pytest.raises(DataError, match="counts its classes from 1, and labels count from 0"):
        open_dataset("folder", folder(tmp_path / "one", words="1 dog\n2 cat\n"))


def test_classes_in_every_form_that_words_have(tmp_path):
    root = folder(tmp_path / "d")
    forms = (
        "sky, dog",
        ["sky", " dog "],
        {"sky": None, "dog": None},
        Vocabulary.from_words("sky, dog"),
    )
    for words in forms:
        assert open_dataset("folder", root, words=words).vocabulary.names == ("sky", "dog")
    assert open_dataset("folder", root, words=["sky, air", "dog"]).vocabulary.synonyms[0] == (
        "sky",
        "air",
    )
    for words, reason in (
        ({"sky", "dog"}, "a set has no order"),
        ([1, 2], "1 is not a text"),
        (5, ""),
    ):
        with pytest.raises(DataError, match=f"words=.*{reason}"):
            open_dataset("folder", root, words=words)


def test_a_split_that_is_not_there_names_those_that_are(tmp_path):
    root = folder(tmp_path / "d")
    for part in ("images", "masks"):
        inside = [(path.name, path) for path in (root / part).iterdir()]
        (root / part / "train").mkdir()
        for name, path in inside:
            path.rename(root / part / "train" / name)
    with pytest.raises(DataError, match="images has no split 'val'; there are train: choose one"):
        open_dataset("folder", root)
    assert len(open_dataset("folder", root, split="train")) == 3


def test_pictures_of_every_kind_count(tmp_path):
    root = folder(tmp_path / "d")
    for index, suffix in enumerate((".jfif", ".gif", ".ppm")):
        name = root / f"images/{index}.png"
        Image.open(name).save(root / f"images/{index}{suffix}", {".jfif": "JPEG"}.get(suffix))
        name.unlink()
    assert [name for _, _, name in open_dataset("folder", root)] == ["0", "1", "2"]


def test_a_limit_is_a_number(tmp_path):
    with pytest.raises(DataError, match="not True"):
        open_dataset("folder", folder(tmp_path / "d"), limit=True)
