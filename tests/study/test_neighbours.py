"""Neighbour agreement: known answers on made-up features, and SceneDINO against SceneCLIP on real pictures."""

import numpy as np
import pytest
import torch
from scipy import stats

import ovsslib
from ovsslib import guides
from ovsslib.errors import DataError
from ovsslib.study import neighbours


def test_the_commonest_label_names_a_patch():
    label = np.array([[1, 1, 2, 2, 9], [1, 3, 2, 0, 9], [5, 5, 4, 6, 9], [5, 5, 6, 4, 9]])
    np.testing.assert_array_equal(neighbours.patch_labels(label, 2), [[1, 2], [5, 4]])


def corners(label: np.ndarray) -> torch.Tensor:
    """Features that are the label: one direction each."""
    return torch.nn.functional.one_hot(torch.from_numpy(label), 3).permute(2, 0, 1).float()


def test_features_that_know_the_label_agree_and_others_as_often_as_chance():
    rng = np.random.default_rng(0)
    labels = [rng.integers(0, 3, (12, 12)) for _ in range(6)]
    perfect = [corners(label) for label in labels]
    for within in (False, True):
        np.testing.assert_array_equal(
            neighbours.agreement(perfect, labels, neighbours=10, within=within), np.ones(6)
        )
        noise = [
            torch.randn(8, 12, 12, generator=torch.Generator().manual_seed(i)) for i in range(6)
        ]
        shares = neighbours.agreement(noise, labels, neighbours=10, within=within)
        assert shares.shape == (6,) and abs(shares.mean() - 1 / 3) < 0.04


def test_a_patch_never_asks_itself_or_its_picture():
    labels = [np.zeros((2, 2), int), np.ones((2, 2), int)]
    same = [torch.ones(3, 2, 2), torch.ones(3, 2, 2)]
    np.testing.assert_array_equal(neighbours.agreement(same, labels, neighbours=3), [0, 0])
    np.testing.assert_array_equal(
        neighbours.agreement(same, labels, neighbours=3, within=True), [1, 1]
    )
    lone = [np.array([[0, 1], [2, 3]])]
    found = neighbours.agreement(same[:1], lone, neighbours=1, within=True)
    np.testing.assert_array_equal(found, [0])


def test_sizes_that_do_not_go_together_are_named():
    with pytest.raises(DataError, match="two or more"):
        neighbours.agreement([torch.ones(3, 2, 2)], [np.zeros((2, 2), int)], neighbours=1)
    with pytest.raises(DataError, match="more than 4 patches"):
        neighbours.agreement(
            [torch.ones(3, 2, 2)], [np.zeros((2, 2), int)], neighbours=4, within=True
        )
    with pytest.raises(DataError, match="same pictures"):
        neighbours.paired_difference(np.zeros(3), np.zeros(4))


def test_the_interval_is_that_of_the_paired_differences():
    rng = np.random.default_rng(1)
    base = rng.random(400)
    gap = neighbours.paired_difference(base + 0.1 + rng.normal(0, 0.02, 400), base)
    assert gap.value == pytest.approx(0.1, abs=0.004)
    half = 1.96 * 0.02 / 20
    assert gap.low == pytest.approx(gap.value - half, abs=5e-4)
    assert gap.high == pytest.approx(gap.value + half, abs=5e-4)


def test_the_interval_of_few_pictures_is_that_of_scipy():
    a, b = np.array([0.5, 0.7, 0.9, 0.4]), np.array([0.4, 0.7, 0.7, 0.5])
    gap = neighbours.paired_difference(a, b)
    ends = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (gap.low, gap.high) == pytest.approx((ends.low, ends.high))
    alone = neighbours.paired_difference(a[:1], b[:1])
    assert alone.value == pytest.approx(0.1) and np.isnan([alone.low, alone.high]).all()


def test_the_mean_colour_of_a_patch_is_that_of_its_pixels():
    guide = guides.load("scenedino")
    image = np.random.default_rng(0).integers(0, 256, (20, 27, 3), dtype=np.uint8)
    colours = neighbours.mean_colour(guide, image)
    assert colours.shape == (3, 2, 3)  # patches of 8; the rest of both sides is cut off
    pixels = torch.from_numpy(image[8:16, 16:24].mean((0, 1)) / 255).float()[None, :, None, None]
    torch.testing.assert_close(
        colours[:, 1, 2], guide.normalise(pixels)[0, :, 0, 0], atol=1e-5, rtol=0
    )


def test_inside_a_picture_scenedino_s_patches_agree_more_than_sceneclip_s_own():
    """The card's clear claim, on eight pictures: SceneDINO's v against SceneCLIP's own patches, each on its grid."""
    dataset = ovsslib.open_dataset("scenes")
    guide, backbone = guides.load("scenedino"), ovsslib.load_backbone("sceneclip")
    fine, coarse = [], []
    for index in range(0, 400, 50):
        image, label, _ = dataset[index]
        image, label = np.asarray(image), np.asarray(label)
        own = neighbours.guide_maps(guide, image)["v"]
        clip = neighbours.clip_maps(backbone, image, recipes=())["k"]
        assert own.shape[1:] == (28, 37) and clip.shape[1:] == (14, 18)
        fine.append((own, neighbours.patch_labels(label, 8)))
        coarse.append((clip, neighbours.patch_labels(label, 16)))
    shares = [
        neighbours.agreement(*map(list, zip(*group, strict=True)), within=True)
        for group in (fine, coarse)
    ]
    assert neighbours.paired_difference(*shares).low > 0
    brought = neighbours.on_grid({"k": coarse[0][0]}, (28, 36))["k"]
    assert brought.shape == (coarse[0][0].shape[0], 28, 36)
