"""The failure miner on drawn label maps with one failure of each cause."""

import numpy as np
import pytest
from test_error_analysis import predictions_of

from ovsslib.errors import DataError
from ovsslib.study import failures
from ovsslib.text.vocabulary import Vocabulary

WORDS = ("wood floor", "sky", "person", "tree", "rug", "fork", "sea")
FLOOR, SKY, PERSON, TREE, RUG, FORK, SEA = range(7)


class Pictures(list):
    """Label maps with black pictures."""

    name, classes, ignore_index = "drawn", len(WORDS), 255
    vocabulary = Vocabulary(
        WORDS, tuple((w,) for w in WORDS),
        ("material", "stuff", "thing", "thing", "thing", "thing", "stuff"), (None,) * len(WORDS),
    )  # fmt: skip

    def __getitem__(self, index):
        label = super().__getitem__(index)
        return np.zeros((*label.shape, 3), dtype=np.uint8), label, f"picture {index}"


def base():
    return np.full((80, 100), FLOOR, dtype=np.uint8)


def fork_missed():
    label = base()
    label[10:20, 10:15] = FORK
    return label, base()


def person_behind_tree():
    """A person of 40x60 whose middle third is behind a tree; the right third is not found."""
    label = base()
    label[20:60, 20:80] = PERSON
    label[0:80, 40:60] = TREE
    mask = label.copy()
    mask[20:60, 60:80] = TREE
    return label, mask


def rug_taken_for_floor():
    label = base()
    label[30:70, 20:80] = RUG
    return label, base()


def sky_taken_for_sea():
    label = base()
    label[:40] = SKY
    mask = label.copy()
    mask[:40] = SEA
    return label, mask


def mined(*cases, **options):
    labels, masks = zip(*[case() for case in cases], strict=True)
    predictions = predictions_of(masks, Pictures(labels))
    return failures.mine(predictions, **options), predictions


def test_each_cause_is_found_in_its_picture():
    frame, _ = mined(fork_missed, person_behind_tree, rug_taken_for_floor, sky_taken_for_sea)
    found = dict(zip(frame["cause"], frame["index"], strict=True))
    assert found == {
        failures.SMALL: 0, failures.OCCLUSION: 1, failures.BOUNDARY: 2, failures.CONFUSION: 3,
    }  # fmt: skip
    assert frame["name"].tolist() == [f"picture {i}" for i in range(4)]


def test_numbers_of_the_failures():
    frame, _ = mined(fork_missed, person_behind_tree, rug_taken_for_floor, sky_taken_for_sea)
    rows = frame.set_index("cause").to_dict("index")
    fork, person = rows[failures.SMALL], rows[failures.OCCLUSION]
    assert (fork["label"], fork["predicted"], fork["object_pixels"]) == ("fork", "wood floor", 50)
    assert (fork["missed"], fork["iou"]) == (100, 0)
    assert (fork["top"], fork["left"], fork["bottom"], fork["right"]) == (10, 10, 20, 15)
    assert (person["label"], person["predicted"]) == ("person", "tree")
    assert (person["object_pixels"], person["wrong_pixels"]) == (1600, 800)
    assert person["missed"] == 50 and person["iou"] == 50
    assert person["hidden"] == pytest.approx(100 / 3)
    assert rows[failures.BOUNDARY]["predicted"] == "wood floor"
    assert rows[failures.CONFUSION]["predicted"] == "sea"


def test_parts_are_joined_by_what_cuts_them_only():
    label = person_behind_tree()[0]
    things = [PERSON, TREE, RUG, FORK]
    persons = [one for one in failures.objects(label, things) if one.label == PERSON]
    assert [one.size for one in persons] == [1600]
    label[label == TREE] = FLOOR
    apart = [one for one in failures.objects(label, things) if one.label == PERSON]
    assert [one.size for one in apart] == [800, 800]
    assert all(one.hidden == 0 for one in apart)


def test_the_worst_come_first_and_no_picture_twice():
    def half_missed():
        label, mask = fork_missed()
        mask[10:15, 10:15] = FORK
        return label, mask

    frame, _ = mined(half_missed, fork_missed, fork_missed, per_cause=2, causes=(failures.SMALL,))
    assert frame["index"].tolist() == [1, 2]
    both, _ = mined(rug_taken_for_floor, per_cause=3)
    assert both["index"].is_unique and len(both) == 1


def test_nothing_wrong_gives_an_empty_table():
    def right():
        label = rug_taken_for_floor()[0]
        return label, label.copy()

    frame, _ = mined(right)
    assert frame.empty and "wrong_pixels" in frame.columns


def test_specks_and_ignored_pixels_are_no_objects():
    label = base()
    label[0:5, 0:5] = FORK  # 25 pixels
    label[50:70, 50:70] = 255
    assert [one.label for one in failures.objects(label, [FORK])] == [FLOOR]


def test_figure_masks_are_titled_with_the_iou_of_the_failing_class():
    frame, predictions = mined(person_behind_tree)
    case = frame[frame["cause"] == failures.OCCLUSION].iloc[0]
    image, masks = failures.figure_masks(case, [predictions])
    assert image.shape == (80, 100, 3)
    assert list(masks) == ["ground truth: person", "made up: IoU 50 %"]
    assert np.array_equal(masks["made up: IoU 50 %"], person_behind_tree()[1])
    table = failures.compare(frame, [predictions])
    assert table["iou: made up"].iloc[0] == 50


def test_bad_input_is_refused():
    with pytest.raises(DataError, match="unknown cause 'weather'"):
        mined(fork_missed, causes=("weather",))
    frame, predictions = mined(fork_missed)
    with pytest.raises(DataError, match="different names"):
        failures.figure_masks(frame.iloc[0], [predictions, predictions])
