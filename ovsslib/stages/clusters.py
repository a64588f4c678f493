"""CLIPtrase's clusters: patches that block 11 correlates get one label by majority vote (Shao et al., ECCV 2024).

The paper evaluates square centre crops of 224 or 336 pixels; here the whole picture takes their place, so that every
pixel gets a label. The thesis's reading of the same method is `local_mask.py`.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ovsslib.clip.backbone import Tap, TrunkOutput
from ovsslib.errors import RecipeError
from ovsslib.recipe import stage
from ovsslib.stages.contexts import ImageContext


@stage(
    "clusters",
    point="labels",
    order=50,
    summary="majority vote inside clusters of patches (CLIPtrase)",
)
@dataclass(frozen=True)
class ClusterSettings:
    """Settings of the vote.

    Attributes:
        eps: neighbourhood radius of DBSCAN between rows of the correlation (released: 0.7 at 224 pixels, 1.1 at 336).
        min_samples: points a core needs (released: 3 at 224 pixels, 7 at 336).
        enlarge: factor to which the maps of the clusters are enlarged before the median filter of size
            2 * enlarge - 1 (released: 4).
    """

    version: ClassVar[int] = 1
    eps: float = 0.7
    min_samples: int = 3
    enlarge: int = 4

    def __post_init__(self):
        if self.eps <= 0 or self.min_samples < 1 or self.enlarge < 1:
            raise RecipeError(
                f"clusters: eps={self.eps}, min_samples={self.min_samples}, enlarge={self.enlarge} must be above 0"
            )

    def taps(self, layers: int) -> set[int]:
        """0-based blocks whose projections are needed: the last but one."""
        return {layers - 2}

    def keep_of_trunk(self, trunk: TrunkOutput) -> tuple[Tensor, tuple[int, int]]:
        """R (P, P) of the picture and its grid (h, w), from a trunk pass over the whole picture."""
        return denoised(correlation(trunk.taps[max(trunk.taps) - 1]))[0], trunk.grid

    def on_labels(self, labels: np.ndarray, context: ImageContext) -> np.ndarray:
        """Replace each cluster's labels (H, W) by the most frequent one; noise keeps its labels."""
        kept = context.kept_of_trunk.get(self)
        if kept is None:  # the windows are parts of the picture: one more pass over the whole
            assert context.trunk_of is not None
            block = context.backbone.layers - 2
            trunk = context.trunk_of(context.network_picture, {block}, until=block)
            kept = denoised(correlation(trunk.taps[block]))[0], trunk.grid
        relation, grid = kept
        regions = cluster_map(
            relation.cpu(), grid, labels.shape, self.eps, self.min_samples, self.enlarge
        )
        return labels if regions is None else majority(labels, regions)


def correlation(tap: Tap) -> Tensor:
    """W (B, T, T): mean cosine of q with q, k with k, v with v, averaged over heads."""
    unit = [F.normalize(projection.float(), dim=-1) for projection in (tap.q, tap.k, tap.v)]
    heads = torch.cat(unit, dim=1)  # (B, 3 * heads, T, D / heads)
    rows = heads.transpose(1, 2).flatten(
        2
    )  # unit vectors in a row, so that products sum their cosines
    return rows @ rows.transpose(-2, -1) / heads.shape[1]


def denoised(relation: Tensor) -> Tensor:
    """R (B, P, P): the class token's row is taken off every patch's row, negatives become 0."""
    return (relation[:, 1:, 1:] - relation[:, :1, 1:]).clamp_min(0)


def cluster_map(
    relation: Tensor,
    grid: tuple[int, int],
    size: tuple[int, int],
    eps: float,
    min_samples: int,
    enlarge: int,
) -> np.ndarray | None:
    """Cluster index of every pixel (H, W), or None if DBSCAN finds no cluster.

    Args:
        relation: (P, P) R of one picture.
        grid: (h, w) patches; size: (H, W) pixels.
    """
    from sklearn.cluster import DBSCAN  # late: importing it takes longer than most recipes do

    clusters = DBSCAN(eps=eps, min_samples=min_samples).fit_predict(relation.numpy())
    names = [name for name in np.unique(clusters) if name >= 0]
    if not names:
        return None
    means = torch.stack(
        [relation[torch.from_numpy(clusters == name)].mean(dim=0) for name in names]
    )
    maps = means.reshape(1, len(names), *grid)
    larger = [side * enlarge for side in grid]
    fine = F.interpolate(maps, size=larger, mode="bilinear", align_corners=False)[0].numpy()
    best, index = None, np.zeros(size, dtype=np.int32)
    for number, values in enumerate(fine):
        # one map at a time: memory does not grow with clusters
        smooth = torch.from_numpy(median_filtered(values, 2 * enlarge - 1))
        full = F.interpolate(smooth[None, None], size=size, mode="bilinear", align_corners=False)[
            0, 0
        ].numpy()
        if best is None:
            best = full
        else:
            wins = full > best
            index[wins], best = number, np.maximum(best, full)
    return index


def median_filtered(values: np.ndarray, size: int) -> np.ndarray:
    """Median of the size x size values around each of (h, w), size odd; borders are mirrored.

    Equal to scipy.ndimage.median_filter and more than twice as fast.
    """
    padded = np.pad(values, size // 2, mode="symmetric")
    around = np.lib.stride_tricks.sliding_window_view(padded, (size, size))
    middle = size * size // 2
    return np.partition(around.reshape(*values.shape, -1), middle, axis=-1)[..., middle]


def majority(labels: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """Most frequent label of each region; ties go to the smaller label. Both (H, W) integer."""
    count = int(labels.max()) + 1
    votes = np.bincount(
        regions.ravel() * count + labels.ravel(), minlength=(int(regions.max()) + 1) * count
    ).reshape(-1, count)
    return votes.argmax(axis=1).astype(np.int32)[regions]
