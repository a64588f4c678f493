"""Outliers, their repair, entropies: against recorded outputs, scikit-learn, and by hand."""

import pytest
import torch
from conftest import relative_error, vectors
from sklearn.neighbors import LocalOutlierFactor

from ovsslib.stages.calibrated import (
    above_quantile,
    aggregated,
    cosines,
    filled,
    guide_weights,
    head_entropy,
    local_outlier_factors,
    lowest_entropy,
    strongest,
    summed_heads,
)

SOME = torch.randn(2, 40, 8, generator=torch.Generator().manual_seed(0))


def test_repair_agrees_with_the_official_code():
    """SC-CLIP keeps a patch without good neighbours; SFP writes 0 there, elsewhere both are the same."""
    for name in ("sc-clip", "sfp"):
        recorded = vectors(name)
        cells, shape = recorded["interp_cells"], (4, 5)
        outliers = torch.zeros(1, 4, 5, dtype=torch.bool)
        outliers[0, cells[:, 0], cells[:, 1]] = True
        patches = recorded["interp_in"].flatten(2).transpose(1, 2)
        ours = filled(patches, outliers.flatten(1), shape).transpose(1, 2).unflatten(2, shape)
        expected = recorded["interp_out"].clone()
        if name == "sfp":
            assert not expected[..., 0, 0].any()
            expected[..., 0, 0] = recorded["interp_in"][..., 0, 0]
        assert relative_error(ours, expected) < 1e-6


def test_repair_reads_original_values_row_by_row():
    values = torch.arange(15.0).reshape(1, 15, 1)  # 3 rows of 5
    outliers = torch.zeros(1, 15, dtype=torch.bool)
    outliers[0, [0, 6, 14]] = True
    made = filled(values, outliers, (3, 5))[0, :, 0]
    assert made[0] == (1 + 5) / 2  # 6 is an outlier itself
    assert made[6] == (1 + 2 + 5 + 7 + 10 + 11 + 12) / 7
    assert made[14] == (8 + 9 + 13) / 3
    rest = [i for i in range(15) if i not in (0, 6, 14)]
    assert torch.equal(made[rest], values[0, rest, 0])


@pytest.mark.parametrize("neighbours", [3, 12])
def test_standard_factor_is_scikit_learns(neighbours):
    ours = local_outlier_factors(SOME, neighbours, standard=True)
    for points, factors in zip(SOME.numpy(), ours, strict=True):
        theirs = LocalOutlierFactor(neighbours).fit(points).negative_outlier_factor_
        assert relative_error(factors, torch.from_numpy(-theirs)) < 1e-5


def test_released_factor_by_hand():
    factors = local_outlier_factors(SOME, 5)
    x = SOME[1].double()
    distance = (x[:, None] - x[None]).square().sum(-1)
    near = distance.argsort(dim=1)[:, 1:6]
    radius = distance.gather(1, near)[:, -1]
    expected = torch.stack([(radius[i] / radius[near[i]]).mean() for i in range(40)])
    assert relative_error(factors[1], expected) < 1e-5


def test_few_and_equal_patches():
    assert local_outlier_factors(SOME[:, :1], 30).tolist() == [[1.0], [1.0]]
    assert torch.isfinite(local_outlier_factors(SOME[:, :7], 30)).all()
    same = torch.ones(1, 9, 4)
    for standard in (False, True):
        factors = local_outlier_factors(same, 3, standard)
        assert torch.equal(factors, torch.ones(1, 9))
        assert not above_quantile(factors, 0.05).any()
    same[0, 4] = 5.0
    found = above_quantile(local_outlier_factors(same, 3), 0.05)
    assert found[0].nonzero().flatten().tolist() == [4]


@pytest.mark.parametrize("count", [2, 16, 21, 35, 36, 101, 196])
def test_share_of_outliers(count):
    scores = torch.randperm(count, generator=torch.Generator().manual_seed(0)).float()[None]
    found = above_quantile(scores, 0.05)
    wanted = count - 1 - int(0.95 * (count - 1) + 1e-9)
    assert int(found.sum()) == wanted
    assert wanted == 0 or scores[found].min() > scores[~found].max()


def test_strongest_takes_candidates_only_and_never_more():
    scores = torch.tensor([[5.0, 1.0, 4.0, 3.0], [1.0, 1.0, 1.0, 1.0]])
    assert strongest(scores, 2).tolist() == [[True, False, True, False], [True, True, False, False]]
    candidates = torch.tensor([[False, True, True, False], [False, False, False, False]])
    assert strongest(scores, 3, candidates).tolist() == candidates.tolist()
    assert strongest(scores, 9).all()


def test_shared_weights_by_hand():
    similarity = cosines(SOME)
    weights = guide_weights(similarity, 3.0)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 40))
    mean = similarity[1].mean()
    row = torch.where(similarity[1, 7] >= mean, (3 * similarity[1, 7]).exp(), torch.zeros(40))
    torch.testing.assert_close(weights[1, 7], row / row.sum())
    # equal patches: every similarity is the mean, give or take rounding
    flat = guide_weights(cosines(torch.full((1, 50, 7), 0.3)), 3.0)
    assert torch.isfinite(flat).all()
    torch.testing.assert_close(flat.sum(-1), torch.ones(1, 50))


def test_aggregation_divides_by_rows():
    weights = torch.tensor([[[1.0, 1.0], [0.0, 2.0]]])
    values = torch.tensor([[[2.0], [4.0]]])
    torch.testing.assert_close(aggregated(values, weights), torch.tensor([[[3.0], [4.0]]]))
    assert not aggregated(values, torch.zeros(1, 2, 2)).any()
    cut = cosines(SOME, 0.4)
    assert ((cut == 0) | (cut >= 0.4)).all() and (cut == 0).any()


def test_heads_of_lowest_entropy():
    sharp, flat = torch.eye(6), torch.full((6, 6), 1 / 6)
    weights = torch.stack([flat, sharp, 0.5 * sharp + 0.5 * flat, sharp])[None]
    entropy = head_entropy(weights)[0]
    torch.testing.assert_close(entropy[0], torch.tensor(6 * 2.585), atol=1e-2, rtol=0)
    torch.testing.assert_close(entropy[1], torch.tensor(0.0), atol=1e-4, rtol=0)
    # the two sharp heads tie, so asking for one gives both
    assert lowest_entropy(weights, 1)[0].tolist() == [False, True, False, True]
    assert lowest_entropy(weights, 3)[0].tolist() == [False, True, True, True]
    assert lowest_entropy(weights, 9).all()
    torch.testing.assert_close(summed_heads(weights, lowest_entropy(weights, 1))[0], 2 * sharp)
