"""The thesis's regions: bins, descriptors, interpolation, mixing, batch and odd sizes."""

from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from ovsslib.errors import RecipeError
from ovsslib.stages.regions import (
    Regions,
    _between_centres,
    bin_edges,
    mix_regions,
    region_descriptors,
)


def test_bins_are_split_by_rounding():
    assert bin_edges(14, 3) == [0, 5, 9, 14]
    assert bin_edges(28, 3) == [0, 9, 19, 28]
    assert bin_edges(9, 3) == [0, 3, 6, 9]
    assert bin_edges(2, 3) == [0, 1, 2]
    for length in range(1, 40):
        edges = bin_edges(length, 3)
        assert edges[0] == 0
        assert edges[-1] == length
        assert all(later > earlier for earlier, later in pairwise(edges))


def test_descriptors_of_each_bin():
    features = torch.randn(2, 4, 7, 8)
    rows, columns = bin_edges(7, 3), bin_edges(8, 3)
    largest = region_descriptors(features, rows, columns, "max")
    mean = region_descriptors(features, rows, columns, "mean")
    assert largest.shape == mean.shape == (2, 4, 3, 3)
    part = features[:, :, rows[1] : rows[2], columns[2] : columns[3]]
    torch.testing.assert_close(largest[:, :, 1, 2], part.flatten(2).max(-1).values)
    torch.testing.assert_close(mean[:, :, 1, 2], part.flatten(2).mean(-1))


def test_interpolation_between_centres():
    # Bins 0..4, 5..8, 9..13 of 14 patches have their centres at 2, 6.5, and 11.
    weights = _between_centres([0, 5, 9, 14], torch.zeros(()))
    assert weights.shape == (14, 3)
    torch.testing.assert_close(weights.sum(1), torch.ones(14))
    torch.testing.assert_close(weights[0], torch.tensor([1.0, 0, 0]))
    torch.testing.assert_close(weights[2], torch.tensor([1.0, 0, 0]))
    torch.testing.assert_close(weights[3], torch.tensor([1 - 1 / 4.5, 1 / 4.5, 0]))
    torch.testing.assert_close(weights[13], torch.tensor([0, 0, 1.0]))


def test_mixture_at_a_region_centre_by_the_formula():
    torch.manual_seed(0)
    features = torch.randn(1, 6, 9, 9)
    unit = F.normalize(features, dim=1)[0]
    blocks = unit.unflatten(1, (3, 3)).unflatten(3, (3, 3))
    largest = blocks.amax((2, 4))
    centred = F.normalize(largest - largest.mean((1, 2), keepdim=True), dim=0)
    whole = F.normalize(unit.mean((1, 2)), dim=0)
    expected = F.normalize(0.6 * unit[:, 4, 7] + 0.3 * centred[:, 1, 2] + 0.1 * whole, dim=0)
    torch.testing.assert_close(mix_regions(features)[0, :, 4, 7], expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(14, 14), (5, 11), (2, 3), (1, 1)])
@pytest.mark.parametrize("pool", ["max", "mean"])
def test_batch_and_odd_sizes_change_nothing(height, width, pool):
    torch.manual_seed(1)
    features = torch.randn(7, 8, height, width)
    together = mix_regions(features, pool=pool)
    assert together.isfinite().all()
    torch.testing.assert_close(together.norm(dim=1), torch.ones(7, height, width))
    for item in range(7):
        alone = mix_regions(features[item : item + 1], pool=pool)
        assert (alone[0] - together[item]).abs().max() < 1e-5


def test_centring_matters_and_weights_act():
    features = torch.randn(1, 8, 6, 6) + 3
    assert not torch.allclose(mix_regions(features), mix_regions(features, centred=False))
    alone = mix_regions(features, weights=(1.0, 0.0, 0.0))
    torch.testing.assert_close(alone, F.normalize(features, dim=1))


def test_stage_and_bad_settings():
    features = torch.randn(1, 8, 6, 6)
    settings = Regions(bins=2, pool="mean", centred=False, region_weight=0.5)
    expected = mix_regions(features, 2, "mean", False, (0.6, 0.5, 0.1))
    assert torch.equal(settings.on_features(features, None), expected)
    assert "trained" in Regions.__doc__
    assert Regions(region_weight=0.0, global_weight=0.0).inert(None)
    assert Regions().inert(None) is None
    for wrong, message in (
        ({"bins": 1}, "bins is 1"),
        ({"pool": "median"}, "pool is 'median'"),
        ({"global_weight": -1.0}, "global_weight is -1"),
        ({"patch_weight": 0.0, "region_weight": 0.0}, "every patch is the same"),
    ):
        with pytest.raises(RecipeError, match=message):
            Regions(**wrong)
