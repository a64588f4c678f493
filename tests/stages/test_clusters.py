"""CLIPtrase's clusters: block 11's correlation against the official code, the vote, noise."""

import numpy as np
import pytest
import scipy
import torch
from conftest import relative_error, vectors

from ovsslib.errors import RecipeError
from ovsslib.recipe import Recipe
from ovsslib.segmenter import Segmenter
from ovsslib.stages.clusters import (
    ClusterSettings,
    cluster_map,
    correlation,
    denoised,
    majority,
    median_filtered,
)


@pytest.mark.parametrize("size", ["64", "80x112"])
def test_correlation_equals_the_official_one(size, tiny_backbone, tiny_inputs):
    recorded = vectors("cliptrase")
    pixels = tiny_inputs["image_64x64" if size == "64" else "image_80x112"]
    tap = tiny_backbone.trunk(pixels, taps={10}).taps[10]
    relation = correlation(tap)
    assert relative_error(relation, recorded[f"W_block11__{size}"]) < 1e-4
    assert relative_error(denoised(relation)[0], recorded[f"R__{size}"]) < 1e-4


def two_blocks():
    """R of a 4 x 6 grid whose left and right halves each hang together."""
    half = (torch.arange(24) % 6) // 3
    return (half[:, None] == half[None]).float()


def test_clusters_follow_the_relation():
    regions = cluster_map(two_blocks(), (4, 6), (40, 60), eps=0.5, min_samples=3, enlarge=4)
    assert regions.shape == (40, 60)
    left, right = regions[:, :28], regions[:, 32:]
    assert len(np.unique(left)) == len(np.unique(right)) == 1 and left[0, 0] != right[0, 0]


def test_no_cluster_is_no_map():
    assert cluster_map(10 * torch.eye(24), (4, 6), (8, 12), 0.5, 3, 2) is None


@pytest.mark.parametrize(("shape", "size"), [((14, 20), 5), ((7, 9), 3), ((30, 31), 19)])
def test_the_median_is_that_of_scipy(shape, size):
    values = np.random.default_rng(0).random(shape, dtype=np.float32).round(1)
    expected = scipy.ndimage.median_filter(values, size=size)
    assert np.array_equal(median_filtered(values, size), expected)


def test_majority_vote_per_region_ties_to_the_smaller_label():
    labels = np.array([[2, 2, 5, 0], [2, 7, 5, 0]], dtype=np.int32)
    regions = np.array([[0, 0, 1, 1], [0, 0, 1, 1]], dtype=np.int32)
    voted = majority(labels, regions)
    assert voted.tolist() == [[2, 2, 0, 0], [2, 2, 0, 0]]
    assert voted.dtype == np.int32


def test_vote_makes_the_mask_constant_on_every_cluster(tiny_backbone):
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    words = ["cat", "dog", "grass", "sky"]
    recipe = Recipe.named("cliptrase").but({"windows.short_side": 96, "clusters.eps": 0.9})
    plain = Segmenter(tiny_backbone, recipe.but(clusters=False))(image, words).mask
    voted = Segmenter(tiny_backbone, recipe)(image, words).mask
    segmenter = Segmenter(tiny_backbone, recipe)
    tap = tiny_backbone.trunk(segmenter.prepare(image)[None], taps={10})
    relation = denoised(correlation(tap.taps[10]))[0]
    regions = cluster_map(relation, tap.grid, (50, 70), 0.9, 3, 4)
    expected = plain if regions is None else majority(plain, regions)
    assert regions is not None
    assert np.array_equal(voted, expected)
    silent = Segmenter(tiny_backbone, recipe.but({"clusters.eps": 1e-6}))(image, words).mask
    assert np.array_equal(silent, plain)


@pytest.mark.parametrize(
    "sink_denoise", [False, {"channels": (3, 17, 40), "sigma": 1.6}], ids=["plain", "denoised"]
)
def test_windows_vote_with_the_whole_picture_as_one_pass_shows_it(sink_denoise, tiny_backbone):
    """The pass over the whole picture ends at the block that is read; stages in the blocks before it still count."""
    image = np.random.default_rng(1).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    words = ["cat", "dog", "grass", "sky"]
    recipe = Recipe.named("cliptrase").but(
        {
            "windows.short_side": 96,
            "windows.crop": 64,
            "windows.stride": 32,
            "clusters.eps": 0.4,
            "clusters.min_samples": 2,
        },
        sink_denoise=sink_denoise,
    )
    plain = Segmenter(tiny_backbone, recipe.but(clusters=False))(image, words).mask
    segmenter = Segmenter(tiny_backbone, recipe)
    trunk = segmenter.trunk(segmenter.prepare(image)[None], {10})
    regions = cluster_map(denoised(correlation(trunk.taps[10]))[0], trunk.grid, (60, 90), 0.4, 2, 4)
    assert regions is not None
    expected = majority(plain, regions)
    assert not np.array_equal(expected, plain)
    assert np.array_equal(segmenter(image, words).mask, expected)


@pytest.mark.parametrize("values", [{"eps": 0.0}, {"min_samples": 0}, {"enlarge": 0}])
def test_bad_values_are_refused(values):
    with pytest.raises(RecipeError, match="clusters"):
        ClusterSettings(**values)
