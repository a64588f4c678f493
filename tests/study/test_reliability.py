"""Reliability curves against counts made by hand, and a fitted temperature that undoes a known one."""

import numpy as np
import pytest
import torch

from ovsslib.errors import DataError
from ovsslib.evaluation import metrics
from ovsslib.study.reliability import fitted_temperature, reliability_curve
from ovsslib.text.vocabulary import Vocabulary


def test_curve_of_counts_made_by_hand():
    confidence = np.array([[0.1, 0.12, 0.9, 0.95]])
    prediction, label = np.array([[0, 1, 1, 1]]), np.array([[0, 0, 1, 1]])
    counts = metrics.calibration_counts(confidence, prediction, label, bins=5)
    curve = reliability_curve(counts)
    assert curve["share"].tolist() == [0.5, 0, 0, 0, 0.5]
    assert curve["confidence"].tolist() == pytest.approx([0.11, 0.3, 0.5, 0.7, 0.925])
    assert curve["accuracy"].iloc[0] == 0.5 and curve["accuracy"].iloc[4] == 1
    assert np.isnan(curve["accuracy"].iloc[1])


def test_curve_sums_images_and_agrees_with_the_calibration_error():
    random = np.random.default_rng(0)
    counts = np.stack(
        [
            metrics.calibration_counts(random.random((8, 8)), *random.integers(0, 3, (2, 8, 8)))
            for _ in range(3)
        ]
    )
    curve = reliability_curve(counts).fillna(0)
    error = (curve["share"] * (curve["accuracy"] - curve["confidence"]).abs()).sum()
    assert error == pytest.approx(metrics.calibration_error(counts.sum(axis=0)))


def test_curve_refuses_other_shapes_and_no_pixels():
    with pytest.raises(DataError, match="shape"):
        reliability_curve(np.zeros((4, 2)))
    with pytest.raises(DataError, match="no pixel"):
        reliability_curve(np.zeros((2, 5, 3)))


class _Sure:
    """A segmenter whose scores are the softmax of logits `factor` times those that the labels were drawn from."""

    def __init__(self, logits, factor):
        self.logits, self.factor = logits, factor
        self.recipe = {"text": self}

    def vocabulary(self, words):
        return words

    def text(self, vocabulary, share):
        return vocabulary

    def segment(self, image, text, keep_scores):
        scores = (self.factor * self.logits[int(image[0, 0, 0])]).softmax(dim=0).numpy()
        return type("Result", (), {"scores": scores})


class _Images(list):
    ignore_index = 255
    vocabulary = Vocabulary.from_words(["a", "b", "c"])


def test_fitted_temperature_undoes_a_known_one():
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(3, 3, 40, 50, generator=generator)
    images = _Images()
    for number, one in enumerate(logits):
        drawn = torch.multinomial(one.softmax(dim=0).flatten(1).T, 1, generator=generator)
        label = drawn.reshape(40, 50).numpy().astype(np.int32)
        label[0] = 255
        images.append((np.full((40, 50, 3), number, dtype=np.uint8), label, str(number)))
    assert fitted_temperature(_Sure(logits, 3.0), images, 3) == pytest.approx(3.0, rel=0.08)
    with pytest.raises(DataError, match="images=4"):
        fitted_temperature(_Sure(logits, 3.0), images, 4)
