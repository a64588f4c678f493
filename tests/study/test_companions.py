"""Pictures in which two classes meet, and changes picture by picture."""

import dataclasses

import numpy as np
import pytest
from test_store import report

from ovsslib.errors import DataError
from ovsslib.recipe import Recipe
from ovsslib.study.companions import changes_by_image, class_iou_by_image, meeting
from ovsslib.text.vocabulary import Vocabulary


class Maps(list):
    """Label maps as a data set."""

    vocabulary = Vocabulary.from_words(["sky", "person", "ball"])
    ignore_index = 255

    def label(self, index):
        return self[index]


@pytest.fixture
def maps():
    touching, near, apart, small = (np.zeros((40, 40), np.uint8) for _ in range(4))
    for one in (touching, near, apart):
        one[10:20, 10:20] = 1
    touching[10:15, 20:25] = 2
    near[10:15, 22:27] = 2  # two pixels of sky between them
    apart[10:15, 30:35] = 2
    small[0:2, 0:2] = 1
    small[0:2, 2:4] = 2
    return Maps([touching, near, apart, small])


def test_classes_meet_where_their_masks_come_near(maps):
    assert meeting(maps, "person", ["ball"], distance=1) == [0]
    assert meeting(maps, "person", ["ball"], distance=3) == [0, 1]
    assert meeting(maps, "person", ["ball"], distance=1, least=0.0) == [0, 3]
    assert meeting(maps, "person", ["sports ball"]) == []
    with pytest.raises(DataError, match="no class 'persons'"):
        meeting(maps, "persons", ["ball"])


def test_changes_are_those_of_each_image_alone():
    before, after = (report(Recipe("one"), seed=seed) for seed in (1, 2))
    word = before.names[1]
    both, found, there = before.counts[0, :, 1]
    expected = 100 * both / (found + there - both)
    assert class_iou_by_image(before, word)[0] == pytest.approx(expected)
    table = changes_by_image(after, before, range(before.images), word)
    assert list(table["change"]) == sorted(table["change"], reverse=True)
    row = table.iloc[0]
    image = int(row["image"])
    assert row["change"] == pytest.approx(
        class_iou_by_image(after, word)[image] - class_iou_by_image(before, word)[image]
    )
    with pytest.raises(DataError, match="no class 'otter'"):
        class_iou_by_image(before, "otter")


def test_an_image_without_the_class_is_left_out():
    before = report(Recipe("one"), seed=1)
    counts = before.counts.copy()
    counts[0, :, 1] = 0
    empty = dataclasses.replace(before, counts=counts)
    assert np.isnan(class_iou_by_image(empty, before.names[1])[0])
    table = changes_by_image(empty, before, range(before.images), before.names[1])
    assert 0 not in set(table["image"])
