"""Recall of the parts of persons, and the pictures that show most of a class."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from ovsslib.errors import DataError
from ovsslib.study.person_parts import (
    PARTS,
    has_parts,
    part_map,
    part_recall,
    part_table,
    pictures_of,
)

NAMES = ("sky", "person")


class Folder:
    """Three images of 4 x 8 pixels; images 0 and 2 show a person, 2 the larger one."""

    name = "fake"
    vocabulary = SimpleNamespace(names=NAMES)

    def __init__(self, root, with_parts: bool = True):
        self.root = root
        self.labels = [np.zeros((4, 8), np.uint8) for _ in range(3)]
        self.labels[0][:, :2] = 1
        self.labels[2][:, :4] = 1
        parts = [np.zeros((4, 8), np.uint8) for _ in range(3)]
        for index, columns in ((0, 2), (2, 4)):
            for row in range(4):
                parts[index][row, :columns] = row + 1
        for index, part in enumerate(parts):
            if with_parts:
                file = root / "parts" / "val" / f"{index}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(part).save(file)

    def __len__(self):
        return 3

    def paths(self, index):
        return (
            self.root / "images" / "val" / f"{index}.jpg",
            self.root / "annotations" / "val" / f"{index}.png",
        )

    def label(self, index):
        return self.labels[index]


def predicted(folder, masks):
    return SimpleNamespace(dataset=folder, vocabulary=folder.vocabulary, mask=lambda i: masks[i])


def test_recall_counts_each_part_over_all_images(tmp_path):
    folder = Folder(tmp_path)
    whole = [label.astype(np.int32) for label in folder.labels]
    heads = [np.where(np.arange(4)[:, None] == 0, one, 0) for one in whole]
    half = [one.copy() for one in whole]
    half[2][:, :] = 0  # 8 of the 24 pixels of persons are left, 2 of 6 in every part
    recall = part_recall(
        {
            "whole": predicted(folder, whole),
            "heads": predicted(folder, heads),
            "half": predicted(folder, half),
        }
    ).set_index(["recipe", "part"])
    assert recall.loc["whole", "value"].tolist() == [100.0] * 4
    assert recall.loc["heads", "value"].tolist() == [100.0, 0.0, 0.0, 0.0]
    assert recall.loc["half", "value"].tolist() == pytest.approx([100 / 3] * 4)
    assert recall.loc["heads", "difference"].tolist() == [0.0, -100.0, -100.0, -100.0]
    # Two images with a person are too few to show a difference, however large.
    assert recall.loc[("heads", "legs"), "verdict"] == "no difference shown"
    assert np.isnan(recall.loc[("heads", "legs"), "difference_low"])
    assert recall["images"].unique().tolist() == [2]
    table = part_table(recall.reset_index())
    assert list(table.columns) == list(PARTS)
    assert (
        table.loc["heads", "head"] == "100.0 %"
    )  # two images have no interval: not said in each cell


def test_pictures_of_a_class_come_largest_first(tmp_path):
    folder = Folder(tmp_path)
    assert pictures_of(folder, "person", 5) == [2, 0]
    assert pictures_of(folder, "person", 1) == [2]
    with pytest.raises(DataError, match="no class 'dog'"):
        pictures_of(folder, "dog", 1)


def test_data_sets_without_parts_say_so(tmp_path):
    folder = Folder(tmp_path, with_parts=False)
    assert not has_parts(folder)
    with pytest.raises(DataError, match="no masks of the parts"):
        part_map(folder, 0)
    assert has_parts(Folder(tmp_path))
    with pytest.raises(DataError, match="no predictions"):
        part_recall({})


def test_the_embedded_scenes_have_parts():
    from ovsslib.datasets.dataset import open_dataset

    scenes = open_dataset("scenes")
    assert has_parts(scenes[:5])
    for index in range(5):
        person = scenes.label(index) == scenes.vocabulary.names.index("person")
        assert not part_map(scenes, index)[~person].any()
