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
