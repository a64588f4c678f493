"""Every region mask votes for one label: CorrCLIP's map correction (Zhang et al., ICCV 2025), for any recipe."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ovsslib.recipe import stage
from ovsslib.stages.contexts import ImageContext


@stage(
    "mask_vote",
    point="labels",
    order=60,
    summary="all pixels of a region mask get its most frequent label (CorrCLIP)",
)
@dataclass(frozen=True)
class MaskVoteSettings:
    """Labels are settled region by region, after the thresholds: a region of mostly rejected pixels is background.

    Attributes:
        proposer: where the region masks come from.
        keep_smallest: leave the region of the smallest id alone, which the released code takes for "not segmented"
            whether or not it is 0. Off: only id 0 is left alone (a proposer whose regions cover the picture has none).
    """

    version: ClassVar[int] = 1

    proposer: str = "felzenszwalb"
    keep_smallest: bool = True

    def proposer_name(self) -> str:
        """The mask proposer that is needed."""
        return self.proposer

    def on_labels(self, labels: np.ndarray, context: ImageContext) -> np.ndarray:
        """Label map (H, W) int32 -> the same, one label per region."""
        assert context.regions is not None
        regions = context.regions.cpu().numpy()
        left = int(regions.min()) if self.keep_smallest else 0
        return vote(labels, regions, left)


def vote(labels: np.ndarray, regions: np.ndarray, left: int) -> np.ndarray:
    """The most frequent label of every region, the smallest of equally frequent ones.

    Args:
        labels: (H, W) int32, 0 or more.
        regions: (H, W) ids.
        left: id of the region whose labels stay.
    """
    ids, index = np.unique(regions, return_inverse=True)
    index = index.reshape(regions.shape)
    classes = int(labels.max()) + 1
    counts = np.bincount((index * classes + labels).ravel(), minlength=len(ids) * classes)
    winner = counts.reshape(len(ids), classes).argmax(axis=1).astype(labels.dtype)
    return np.where(regions == left, labels, winner[index])
