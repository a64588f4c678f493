"""The vote of region masks: CorrCLIP's recorded labels, ties, the region that is left alone."""

import numpy as np
import pytest
import torch
from conftest import vectors

from ovsslib.recipe import Recipe
from ovsslib.stages.contexts import ImageContext
from ovsslib.stages.mask_vote import MaskVoteSettings, vote
from ovsslib.text.features import TextFeatures
from ovsslib.text.vocabulary import Vocabulary

RECORDED = vectors("corrclip")


def context_of(regions: np.ndarray) -> ImageContext:
    text = TextFeatures(torch.zeros(1, 4), torch.zeros(1).long(), Vocabulary.from_words(["a"]))
    image = np.zeros((*regions.shape, 3), np.uint8)
    return ImageContext(
        None, image, torch.zeros(1, 3, 4, 4), text, Recipe("x"), regions=torch.from_numpy(regions)
    )


def test_labels_of_the_official_code():
    """Softmax of 40 times the cosines, the first three of six queries as one class, argmax, vote."""
    p = (40 * RECORDED["logits_slide56_28__90x126"][0]).softmax(0)
    labels = torch.cat([p[:3].amax(0, keepdim=True), p[3:]]).argmax(0).numpy().astype(np.int32)
    regions = RECORDED["mask__90x126"].numpy().astype(np.int64)
    voted = MaskVoteSettings().on_labels(labels, context_of(regions))
    expected = RECORDED["labels_slide56_28_bg3__90x126"].numpy()
    assert voted.dtype == np.int32 and (voted != labels).any()
    np.testing.assert_array_equal(voted, expected)


def test_ties_go_to_the_smaller_label_and_one_region_is_left_alone():
    labels = np.array([[2, 1, 5, 5], [3, 0, 4, 5]], np.int32)
    regions = np.array([[7, 7, 9, 9], [3, 3, 9, 9]])
    assert vote(labels, regions, left=3).tolist() == [[1, 1, 5, 5], [3, 0, 5, 5]]
    assert vote(labels, regions, left=0).tolist() == [[1, 1, 5, 5], [0, 0, 5, 5]]


@pytest.mark.parametrize("keep", [True, False])
def test_the_smallest_id_stands_for_no_mask_as_released(keep):
    labels = np.array([[2, 1, 1]], np.int32)
    regions = np.array([[4, 4, 4]])
    voted = MaskVoteSettings(keep_smallest=keep).on_labels(labels, context_of(regions))
    assert voted.tolist() == ([[2, 1, 1]] if keep else [[1, 1, 1]])
    assert MaskVoteSettings(proposer="slic").proposer_name() == "slic"
