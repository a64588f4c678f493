"""The thesis's RCS: the formula, chunks, batch and odd sizes, the literal form."""

import sys

import pytest
import torch
from torch.nn import functional as F

from ovsslib.errors import RecipeError
from ovsslib.stages.feature_rcs import FeatureRcs, smooth_by_similarity


@pytest.mark.parametrize("literal", [False, True])
@pytest.mark.parametrize(("height", "width"), [(4, 4), (3, 7), (1, 5)])
def test_by_the_formula(literal, height, width):
    torch.manual_seed(0)
    features = torch.randn(2, 12, height, width, dtype=torch.float64)
    ours = smooth_by_similarity(features, 0.3, 0.07, literal)
    for item in range(2):
        rows = features[item].flatten(1).T
        if not literal:
            rows = rows / rows.norm(dim=1, keepdim=True)
        attention = (rows @ rows.T / (1.0 if literal else 0.07)).softmax(1)
        expected = rows + 0.3 * attention @ rows
        torch.testing.assert_close(ours[item].flatten(1).T.double(), expected, atol=1e-5, rtol=1e-4)


def test_parts_and_batch_change_nothing(monkeypatch):
    torch.manual_seed(1)
    features = torch.randn(7, 16, 5, 9)
    together = smooth_by_similarity(features)
    for item in range(7):
        alone = smooth_by_similarity(features[item : item + 1])
        assert (alone[0] - together[item]).abs().max() < 1e-5
    monkeypatch.setattr(sys.modules["ovsslib.stages.feature_rcs"], "_WEIGHTS_AT_A_TIME", 7 * 45 * 4)
    assert (smooth_by_similarity(features) - together).abs().max() < 1e-5


def test_literal_form_is_nearly_a_scaling_and_the_default_is_not():
    torch.manual_seed(2)
    features = 3 * torch.randn(1, 64, 6, 6)
    literal = F.cosine_similarity(smooth_by_similarity(features, literal=True), features)
    assert literal.min() > 0.9999
    common = features + 12 * torch.randn(1, 64, 1, 1)
    assert F.cosine_similarity(smooth_by_similarity(common), common).max() < 0.9999


def test_stage_and_bad_settings():
    features = torch.randn(1, 8, 3, 3)
    settings = FeatureRcs(alpha=0.5, temperature=0.1)
    expected = smooth_by_similarity(features, 0.5, 0.1)
    assert torch.equal(settings.on_features(features, None), expected)
    assert FeatureRcs(alpha=0.0).inert(None)
    assert settings.inert(None) is None
    with pytest.raises(RecipeError, match="alpha is -1"):
        FeatureRcs(alpha=-1.0)
    with pytest.raises(RecipeError, match="temperature is 0"):
        FeatureRcs(temperature=0.0)
