"""ResCLIP's SFR: path test, smoothing, labels, real switches. Parity with the official code: test_methods.py."""

import math
import sys

import pytest
import torch

from ovsslib.errors import RecipeError
from ovsslib.recipe import Recipe
from ovsslib.segmenter import Segmenter
from ovsslib.stages.pixel_adaptive import pamr
from ovsslib.stages.sfr import SfrSettings, feedback_matrix, patch_labels, path_decay


def decay_by_hand(labels, released):
    """Pair by pair, in plain Python."""
    h, w = labels.shape
    cells = [(y, x) for y in range(h) for x in range(w)]
    longest = max(h - 1, w - 1, 1)
    out = torch.zeros(h * w, h * w)
    for i, (y, x) in enumerate(cells):
        for j, (v, u) in enumerate(cells):
            if labels[y, x] != labels[v, u]:
                continue
            d = max(abs(v - y), abs(u - x))
            count = d + 1 if released else longest + 1
            line = [n / longest for n in range(longest + 1)][:count]
            path = [(round(y + t * (v - y)), round(x + t * (u - x))) for t in line]
            inside = all(labels[cell] == labels[y, x] for cell in path)
            out[i, j] = 1.0 if inside else math.exp(-d / longest)
    return out


@pytest.mark.parametrize("released", [True, False])
@pytest.mark.parametrize("size", [(4, 5), (1, 6), (5, 3), (1, 1)])
def test_path_test_equals_a_walk_pair_by_pair(size, released):
    labels = torch.randint(0, 2, size, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(path_decay(labels, released), decay_by_hand(labels, released))


def test_released_path_test_misses_walls_that_the_whole_line_meets():
    labels = torch.zeros(1, 9, dtype=torch.long)
    labels[0, 3] = 1
    whole, released = (path_decay(labels, flag) for flag in (False, True))
    assert whole[0, 4] == pytest.approx(math.exp(-4 / 8))
    assert released[0, 4] == 1.0
    assert whole[0, 8] == released[0, 8] == pytest.approx(math.exp(-1))


def test_matrix_rows_sum_to_one_and_spare_the_class_token():
    labels = torch.tensor([[0, 0, 1], [0, 1, 1]])
    matrix = feedback_matrix(labels, 1.0, True, True)
    assert matrix.shape == (7, 7)
    assert not matrix[0].any() and not matrix[:, 0].any()
    torch.testing.assert_close(matrix[1:].sum(1), torch.ones(6))


def test_no_line_leaves_a_convex_label_in_a_long_picture():
    labels = (torch.arange(7 * 40).reshape(7, 40) % 40) // 20
    same = labels.flatten()[:, None] == labels.flatten()[None]
    assert torch.equal(path_decay(labels, False), same.float())


def test_patch_labels_vote_and_threshold():
    probabilities = torch.zeros(3, 4, 8)
    probabilities[2, :, :4] = 0.9
    probabilities[1, :, 4:] = 0.4
    assert patch_labels(probabilities, 0.0, 4).tolist() == [[2, 1]]
    assert patch_labels(probabilities, 0.5, 4).tolist() == [[2, 0]]
    tie = torch.zeros(2, 2, 2)
    tie[1, :, 1] = 1.0
    tie[0, :, 0] = 1.0
    assert patch_labels(tie, 0.0, 2).tolist() == [[0]]


def test_strips_and_chunks_give_the_labels_of_all_at_once(monkeypatch):
    torch.manual_seed(4)
    cosines, picture = torch.rand(40, 5, 7), torch.randn(3, 80 + 3, 112 + 9)
    settings = SfrSettings(threshold=0.5, pamr_iterations=2)
    full = torch.nn.functional.interpolate(cosines[None], picture.shape[-2:], mode="bilinear")
    refined = pamr(picture[None], full, 2, settings.pamr_dilations)
    expected = patch_labels((refined * settings.logit_scale).softmax(1)[0], 0.5, 16)
    assert len(expected.unique()) > 5 and (expected == 0).any()
    assert torch.equal(settings._first_labels(cosines, picture, 16), expected)
    monkeypatch.setattr(sys.modules["ovsslib.stages.sfr"], "_STRIP", 1)
    assert torch.equal(settings._first_labels(cosines, picture, 16), expected)


def test_needs_text_and_scores(tiny_backbone, tiny_inputs):
    segmenter = Segmenter(tiny_backbone, Recipe("sfr").but(sfr=True))
    with pytest.raises(RecipeError, match="text_features"):
        segmenter.features(tiny_inputs["image_64x64"])
    with pytest.raises(RecipeError, match="no scores"):
        Recipe("sfr").but({"attention.terms": "value", "sfr": True})


def test_switches_are_real_switches(tiny_backbone, tiny_inputs):
    pixels, text = tiny_inputs["image_80x112"], tiny_inputs["text"]

    def tokens(**changes):
        recipe = Recipe("resclip").but({"attention.terms": "kk"}, **changes)
        return Segmenter(tiny_backbone, recipe).features(pixels, text)

    plain = tokens()
    for changes in ({"rcs": True}, {"sfr": True}, {"rcs": True, "sfr": True}):
        assert not torch.allclose(tokens(**changes), plain, atol=1e-4)
    assert not torch.allclose(tokens(sfr=True), tokens(sfr={"pamr_iterations": 0}), atol=1e-6)


@pytest.mark.parametrize(
    "values", [{"lam": 2.0}, {"tau": 0.0}, {"std": -1.0}, {"logit_scale": 0.0}]
)
def test_bad_values_are_refused(values):
    with pytest.raises(RecipeError, match="sfr"):
        SfrSettings(**values)
