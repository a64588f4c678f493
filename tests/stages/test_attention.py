"""Attention of the last block: sums, joint softmax, neighbourhood, what is kept around it."""

import itertools

import pytest
import torch
from conftest import relative_error, vectors

from ovsslib.clip.geometry import neighbourhood
from ovsslib.errors import RecipeError
from ovsslib.recipe import Recipe
from ovsslib.segmenter import Segmenter
from ovsslib.stages.attention import AttentionSettings

SCALE = 16**-0.5


@pytest.fixture(scope="module")
def tap(tiny_backbone, tiny_inputs):
    last = tiny_backbone.layers - 1
    return tiny_backbone.trunk(tiny_inputs["image_80x112"], taps={last}).taps[last]


def softmax_of(left, right, extra=0.0):
    return (torch.einsum("bhid,bhjd->bhij", left, right) * SCALE + extra).softmax(-1)


def test_neighbourhood_equals_naclips():
    omega = neighbourhood((5, 7), 5.0)
    assert relative_error(omega, vectors("naclip_omega_5x7_std5")["omega"]) < 1e-6
    assert not omega[0].any() and not omega[:, 0].any()
    assert torch.equal(omega.diagonal()[1:], torch.ones(35))


@pytest.mark.parametrize("terms", ["qk", "qq", "kk", "vv", "qq+kk", "qk+vv", "qk+qq+kk+vv"])
def test_sums_add_one_softmax_per_term(terms, tap):
    weights = AttentionSettings(terms=terms).weights(tap, (5, 7), SCALE)
    parts = [softmax_of(getattr(tap, a), getattr(tap, b)) for a, b in terms.split("+")]
    torch.testing.assert_close(weights, sum(parts))
    assert weights.shape == (1, 4, 36, 36)
    torch.testing.assert_close(weights.sum(-1), torch.full((1, 4, 36), float(len(parts))))


def test_joint_takes_one_softmax_of_the_summed_scores(tap):
    weights = AttentionSettings(terms="qq+kk", combine="joint").weights(tap, (5, 7), SCALE)
    scores = (tap.q @ tap.q.transpose(-1, -2) + tap.k @ tap.k.transpose(-1, -2)) * SCALE
    torch.testing.assert_close(weights, scores.softmax(-1))
    apart = AttentionSettings(terms="qq+kk").weights(tap, (5, 7), SCALE)
    assert (apart / 2 - weights).abs().max() > 1e-3


def test_gaussian_is_added_to_the_scores_of_every_term(tap):
    omega = neighbourhood((5, 7), 2.0)
    weights = AttentionSettings("qq+kk", gaussian_std=2.0).weights(tap, (5, 7), SCALE)
    expected = softmax_of(tap.q, tap.q, omega) + softmax_of(tap.k, tap.k, omega)
    torch.testing.assert_close(weights, expected)


def test_neighbour_alone_does_not_see_the_content_but_its_size(tap):
    settings = AttentionSettings("neighbour", gaussian_std=5.0)
    weights = settings.weights(tap, (5, 7), SCALE)
    torch.testing.assert_close(weights[:, 0], weights[:, 3])
    patches = weights[0, 0, 1:, 1:]
    assert torch.equal(patches.argmax(-1), torch.arange(35))
    size = SCALE * (tap.q.norm(dim=-1).mean(-1) * tap.k.norm(dim=-1).mean(-1)).mean()
    torch.testing.assert_close(weights[0, 0], (neighbourhood((5, 7), 5.0) * size).softmax(-1))


def test_adjustment_comes_before_neighbourhood_and_softmax(tap):
    settings = AttentionSettings("kk", gaussian_std=5.0)
    weights = settings.weights(tap, (5, 7), SCALE, adjust=lambda scores: 0 * scores)
    torch.testing.assert_close(weights[0, 0], neighbourhood((5, 7), 5.0).softmax(-1))


def test_value_is_the_identity(tap, tiny_backbone, tiny_inputs):
    weights = AttentionSettings("value").weights(tap, (5, 7), SCALE)
    assert torch.equal(weights[0, 2], torch.eye(36))
    settings = AttentionSettings("value", residual=False, feed_forward=False)
    trunk = tiny_backbone.trunk(tiny_inputs["image_80x112"], taps={11})
    torch.testing.assert_close(
        settings.tokens(tiny_backbone, trunk, weights), settings.tokens(tiny_backbone, trunk, None)
    )


def test_residual_and_feed_forward_are_kept_independently(tiny_backbone, tiny_inputs):
    maps = {}
    for residual in (True, False):
        for feed_forward in (True, False):
            changes = {"attention.residual": residual, "attention.feed_forward": feed_forward}
            recipe = Recipe("kept").but(changes)
            segmenter = Segmenter(tiny_backbone, recipe)
            maps[residual, feed_forward] = segmenter.features(tiny_inputs["image_64x64"])
    for one, other in itertools.combinations(maps.values(), 2):
        assert relative_error(one, other) > 1e-2


@pytest.mark.parametrize(
    "values",
    [
        {"terms": "qz"},
        {"terms": "qq+qq"},
        {"terms": ""},
        {"terms": "value+qq"},
        {"terms": "value", "gaussian_std": 5.0},
        {"terms": "neighbour"},
        {"gaussian_std": 0.0},
    ],
)
def test_impossible_settings_are_refused(values):
    with pytest.raises(RecipeError, match="attention"):
        AttentionSettings(**values)
