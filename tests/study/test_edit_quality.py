import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from ovsslib.datasets.dataset import open_dataset
from ovsslib.errors import RecipeError
from ovsslib.images.segmentation import Segmentation
from ovsslib.study.edit_quality import edit_precision, edit_recall, measure_edits


def test_precision_and_recall_of_an_edit():
    truth = np.zeros((4, 10), dtype=bool)
    truth[:, :5] = True
    mask = np.zeros((4, 10), dtype=np.float32)
    mask[:, 2:4], mask[:, 4:8] = 1, 0.5
    assert edit_precision(mask, truth) == pytest.approx((8 + 2) / (8 + 8))
    assert edit_recall(mask, truth) == pytest.approx(10 / 20)
    assert np.isnan(edit_precision(0 * mask, truth)) and np.isnan(edit_recall(mask, truth & False))


class Oracle:
    """Stands in for a segmenter: knows the label maps, and may widen the things in them."""

    def __init__(self, dataset, widen: int = 0, blind: bool = False):
        self.recipe = {"text": self}
        self.answers = {}
        for image, label, _ in dataset:
            mask = label.astype(np.int32)
            for thing in np.unique(mask[mask >= 14]):
                if blind:
                    mask[mask == thing] = 0
                elif widen:
                    mask[binary_dilation(label == thing, iterations=widen)] = thing
            self.answers[image.tobytes()] = mask

    def vocabulary(self, vocabulary):
        return vocabulary

    def text(self, vocabulary, share):
        return vocabulary

    def segment(self, image, text, keep_scores=False):
        return Segmentation(self.answers[image.tobytes()], list(text.names), image=image)


def test_edit_quality_over_a_data_set():
    dataset = open_dataset("scenes", limit=4)
    segmenters = {
        "exact": Oracle(dataset),
        "wide": Oracle(dataset, widen=3),
        "blind": Oracle(dataset, blind=True),
    }
    masks = {"plain": {}, "shrunk": {"grow": -1}}
    table = measure_edits(segmenters, dataset, masks, baseline="exact")
    table = table.set_index(["recipe", "mask"])
    assert list(table.index) == [(s, m) for s in segmenters for m in masks]
    exact, wide = table.loc[("exact", "plain")], table.loc[("wide", "plain")]
    assert exact["precision"] == exact["recall"] == exact["recall_low"] == 100
    assert 30 < wide["precision"] < 95 and wide["recall"] > 90
    assert wide["precision_low"] <= wide["precision"] <= wide["precision_high"]
    shrunk = table.loc[("exact", "shrunk")]
    assert shrunk["precision"] == 100 and shrunk["recall"] < 100
    blind = table.loc[("blind", "plain")]
    assert blind["missed"] == blind["edits"] > 4 and blind["recall"] == 0
    assert np.isnan(blind["precision"]) and np.isnan(blind["precision_gain"])
    assert wide["precision_gain"] == pytest.approx(wide["precision"] - 100)
    assert wide["precision_gain_low"] <= wide["precision_gain"] <= wide["precision_gain_high"] < 0
    assert exact["recall_gain_low"] == exact["recall_gain_high"] == 0
    with pytest.raises(RecipeError, match="'best' is not among exact, wide, blind"):
        measure_edits(segmenters, dataset, masks, baseline="best")
