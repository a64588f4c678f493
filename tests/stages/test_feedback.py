"""The thesis's feedback: anchors, the pull, iterations, batch and odd sizes, extra scales."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from ovsslib.errors import RecipeError
from ovsslib.stages.feedback import Feedback, choose_anchors, pull_to_anchors, semantic_feedback


def test_anchors_are_the_top_quartile_of_each_class():
    torch.manual_seed(0)
    confidence, label = torch.rand(60), torch.randint(0, 4, (60,))
    label[17] = 9  # a class of one patch keeps it
    anchors = choose_anchors(confidence, label, 0.75)
    for value in label.unique():
        members = confidence[label == value]
        expected = members >= torch.quantile(members, 0.75)
        assert torch.equal(anchors[label == value], expected)
    assert anchors[17]
    assert not choose_anchors(confidence, label, 0.75, least=1.1).any()
    assert choose_anchors(confidence, label, 0.0).all()


def test_pull_by_the_formula():
    torch.manual_seed(1)
    logits, anchor_logits = torch.randn(5, 3), torch.randn(4, 3)
    features = F.normalize(torch.randn(5, 6), dim=1)
    anchors = F.normalize(torch.randn(4, 6), dim=1)
    ours = pull_to_anchors(logits, features, anchor_logits, anchors, 0.4, 0.07)
    for row in range(5):
        cosines = anchors @ features[row]
        weights = (cosines / 0.07).exp() / (cosines / 0.07).exp().sum()
        target = (weights[:, None] * anchor_logits).sum(0)
        share = 0.4 * max(0.0, float(cosines.max()))
        expected = (1 - share) * logits[row] + share * target
        torch.testing.assert_close(ours[row], expected, atol=1e-5, rtol=1e-4)
    assert torch.equal(
        pull_to_anchors(logits, features, anchor_logits[:0], anchors[:0], 0.4, 0.07), logits
    )


def test_one_iteration_on_an_upsampled_grid_written_out():
    torch.manual_seed(2)
    logits, features = torch.randn(1, 3, 4, 6), torch.randn(1, 8, 4, 6)
    ours = semantic_feedback(logits, features, (2, 3), iterations=1)
    coarse = logits.unflatten(2, (2, 2)).unflatten(4, (3, 2)).mean((3, 5))[0].flatten(1).T
    unit = F.normalize(features, dim=1)
    small = unit.unflatten(2, (2, 2)).unflatten(4, (3, 2)).mean((3, 5))[0].flatten(1).T
    confidence, label = (40 * coarse).softmax(1).max(1)
    anchors = choose_anchors(confidence, label, 0.75)
    expected = pull_to_anchors(
        logits[0].flatten(1).T,
        unit[0].flatten(1).T,
        coarse[anchors],
        F.normalize(small, dim=1)[anchors],
        0.4,
        0.07,
    )
    torch.testing.assert_close(ours[0].flatten(1).T, expected, atol=1e-5, rtol=1e-4)
    twice = semantic_feedback(ours, features, (2, 3), iterations=1)
    torch.testing.assert_close(semantic_feedback(logits, features, (2, 3), iterations=2), twice)


@pytest.mark.parametrize(
    ("fine", "coarse"), [((28, 28), (14, 14)), ((9, 15), (5, 7)), ((3, 5), (3, 5))]
)
def test_batch_and_odd_sizes_change_nothing(fine, coarse):
    torch.manual_seed(3)
    logits, features = 0.1 * torch.randn(7, 5, *fine), torch.randn(7, 16, *fine)
    together = semantic_feedback(logits, features, coarse)
    assert together.shape == logits.shape
    assert not torch.allclose(together, logits)
    for item in range(7):
        one = slice(item, item + 1)
        alone = semantic_feedback(logits[one], features[one], coarse)
        assert (alone[0] - together[item]).abs().max() < 1e-5


def test_without_anchors_it_is_the_identity():
    logits, features = torch.randn(2, 3, 4, 4), torch.randn(2, 8, 4, 4)
    assert torch.equal(semantic_feedback(logits, features, (2, 2), least=1.1), logits)
    assert torch.equal(semantic_feedback(logits, features, (2, 2), iterations=0), logits)


def test_rows_beyond_the_words_do_not_choose():
    torch.manual_seed(4)
    logits, features = torch.randn(1, 3, 4, 4), torch.randn(1, 8, 4, 4)
    groups = torch.cat([logits, 9 + torch.randn(1, 2, 4, 4)], 1)
    ours = semantic_feedback(groups, features, (2, 2), queries=3)
    torch.testing.assert_close(ours[:, :3], semantic_feedback(logits, features, (2, 2)))


def test_stage_single_and_multi():
    torch.manual_seed(5)
    logits, features = torch.randn(2, 3, 6, 8), torch.randn(2, 8, 6, 8)
    asked = []

    def at(scale):
        asked.append(scale)
        return torch.full((2, 3, 2, 2), scale)

    context = SimpleNamespace(features=features, coarse_grid=(3, 4), coarse_logits_at=at)
    single = Feedback().on_similarity(logits, context)
    torch.testing.assert_close(single, semantic_feedback(logits, features, (3, 4)))
    assert asked == []
    multi = Feedback(scales="multi", extra_scales=(0.5, 2.0)).on_similarity(logits, context)
    assert asked == [0.5, 2.0]
    others = [torch.full((2, 3, 2, 2), scale) for scale in (0.5, 2.0)]
    torch.testing.assert_close(multi, semantic_feedback(logits, features, (3, 4), others))
    assert not torch.allclose(multi, single)
    context.coarse_logits_at = None
    with pytest.raises(RecipeError, match="scales='multi'"):
        Feedback(scales="multi").on_similarity(logits, context)


def test_settings_are_checked():
    assert Feedback(step=0.0).inert(None)
    assert Feedback(iterations=0).inert(None)
    assert Feedback().inert(None) is None
    for wrong, message in (
        ({"iterations": -1}, "iterations is -1"),
        ({"quantile": 1.5}, "quantile is 1.5"),
        ({"temperature": 0.0}, "temperature is 0"),
        ({"scales": "many"}, "scales is 'many'"),
        ({"extra_scales": (0.0,)}, "extra_scales is"),
    ):
        with pytest.raises(RecipeError, match=message):
            Feedback(**wrong)
