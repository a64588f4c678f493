"""Recipes that refine each query by itself: a running best in place of all logits, with the same answer."""

from dataclasses import replace

import numpy as np
import psutil
import pytest
import torch
import torch.nn.functional as F

from ovsslib.errors import MemoryBudgetError
from ovsslib.recipe import Recipe
from ovsslib.segmenter import Segmenter, finishing
from ovsslib.segmenter.finishing import goes_by_query
from ovsslib.segmenter.running_best import RunningBest
from ovsslib.stages.windows import Stitched
from ovsslib.study.cost import estimated_bytes

SMALL = {"windows": {"short_side": 64, "crop": 64, "stride": 32}, "pamr": {"iterations": 3}}
WORDS = {"cat": ["cat", "kitten"], "dog": None, "grass": None, "road": ["road", "street", "lane"]}
WORDS |= {name: None for name in ("tree", "car", "boat", "door", "lamp")}


@pytest.fixture
def image():
    blocks = np.random.default_rng(0).integers(0, 256, (10, 12, 3))
    return np.kron(blocks, np.ones((8, 8, 1))).astype(np.uint8)


@pytest.fixture
def segment(tiny_backbone):
    """A segmenter of SCLIP with PAMR and changes of the recipe."""
    return lambda **changes: Segmenter(
        tiny_backbone, Recipe.named("sclip").but({**SMALL, **changes})
    )


def near_patches(segmenter, text, image):
    """The same words with features of the picture's own patches, less their mean: each is the best somewhere."""
    patches = segmenter.features(segmenter.prepare(image)[None])[0].flatten(0, 1)
    patches = (patches - patches.mean(dim=0))[:: len(patches) // len(text)][: len(text)]
    return replace(text, features=F.normalize(patches, dim=-1))


@pytest.fixture
def counted(monkeypatch):
    """How many logits were held at a time."""
    sizes, original = [], Stitched._part

    def watched(self, queries, rows):
        part = original(self, queries, rows)
        sizes.append(part.numel())
        return part

    monkeypatch.setattr(Stitched, "_part", watched)
    return sizes


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"labels.closing": 5},
        {"labels.merge": "logit"},
        {"labels.synonyms": "first"},
        {"labels.background_offset": 0.05},
        {"labels.logit_scale": 100.0},
    ],
)
def test_labels_are_those_of_all_logits_at_once(segment, image, monkeypatch, counted, changes):
    segmenter = segment(**changes)
    text = near_patches(segmenter, segmenter.text(WORDS, background=["wall", "sky"]), image)
    monkeypatch.setattr(finishing, "QUERIES", 9 * image[..., 0].size)
    mask = segmenter.segment(image, text).mask
    assert counted == [8 * image[..., 0].size, 6 * image[..., 0].size]
    whole = segmenter.segment(image, text, keep_scores=True).mask
    assert np.array_equal(mask, whole) and len(np.unique(mask)) > 2
    assert counted[2:] == [len(text) * image[..., 0].size]


@pytest.mark.parametrize(
    "words", [WORDS, ["cat", "dog", "grass"], ["cat"], {"cat": ["cat", "kitten"]}]
)
def test_confidences_of_large_pictures_are_those_of_the_softmax(
    segment, image, monkeypatch, counted, words
):
    segmenter = segment()
    text = near_patches(segmenter, segmenter.text(words), image)
    whole = segmenter.segment(image, text, confidence=True)
    assert counted.pop() == len(text) * image[..., 0].size and not counted
    monkeypatch.setattr(finishing, "LARGE", 100)
    monkeypatch.setattr(finishing, "QUERIES", 0)
    parts = segmenter.segment(image, text, confidence=True)
    assert max(counted) <= 4 * image[..., 0].size
    assert np.array_equal(parts.mask, whole.mask)
    np.testing.assert_allclose(parts.confidence, whole.confidence, atol=1e-6)
    np.testing.assert_allclose(parts.margin, whole.margin, atol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"labels.probability_threshold": 0.2},
        {"labels.area_threshold": 0.1},
        {"densecrf": True},
        {"calibration": True},
        {"pamr": False},
    ],
)
def test_what_reads_more_than_the_best_holds_all(changes):
    assert goes_by_query(Recipe.named("sclip").but(SMALL))
    assert not goes_by_query(Recipe.named("sclip").but({**SMALL, **changes}))


def test_confidences_of_other_labels_than_the_best_hold_all():
    closed = Recipe.named("sclip").but({**SMALL, "labels.closing": 3})
    assert goes_by_query(closed) and not goes_by_query(closed, confidence=True)
    merged = Recipe.named("sclip").but({**SMALL, "labels.merge": "logit"})
    assert goes_by_query(merged, confidence=True)
    assert not goes_by_query(merged, confidence=True, synonyms=True)


def test_many_words_on_a_large_picture_are_no_longer_refused(segment, image, monkeypatch):
    segmenter = segment()
    text = segmenter.text([f"word {number}" for number in range(40)])
    # four maps of all 40 words are 4.9 MB
    little = type("Memory", (), {"available": 2_000_000})
    monkeypatch.setattr(psutil, "virtual_memory", lambda: little)
    assert segmenter.segment(image, text).mask.shape == image.shape[:2]
    with pytest.raises(MemoryBudgetError, match="40 queries"):
        segmenter.segment(image, text, keep_scores=True)


def test_the_estimate_knows(segment):
    few, many = (estimated_bytes(segment(), (2000, 3000), queries) for queries in (40, 800))
    assert many < 1.2 * few
    held = segment(**{"labels.area_threshold": 0.1})
    assert estimated_bytes(held, (2000, 3000), 800) > 10 * many


def test_the_first_of_equal_logits_wins_and_its_margin_is_nothing():
    best = RunningBest((1, 2), torch.device("cpu"), confidence=True)
    best.add(torch.tensor([[[2.0, 1.0]], [[2.0, 3.0]]]), [4, 2])
    best.add(torch.tensor([[[2.0, 0.0]], [[1.0, 2.0]]]), [0, 2])
    assert best.labels.tolist() == [[4, 2]]
    sure, margin = best.confidence()
    softmax = torch.tensor([[2.0, 2, 2, 1], [1, 3, 0, 2]]).softmax(dim=1)
    torch.testing.assert_close(sure, softmax.amax(dim=1)[None])
    torch.testing.assert_close(
        margin, torch.stack([torch.tensor(0.0), softmax[1, 1] - softmax[1, 0]])[None]
    )
