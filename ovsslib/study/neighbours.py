"""Do neighbours in feature space show the same thing? k-nearest-neighbour label agreement of patch features.

No classifier is trained: a patch asks its nearest patches, by cosine, and the share of them that carries its label is its
agreement. A guide that says what belongs together has a high agreement.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import t as student
from torch import Tensor

from ovsslib.clip.backbone import PIXEL_MEAN, PIXEL_STD, Backbone
from ovsslib.errors import DataError
from ovsslib.guides.guide import Guide
from ovsslib.guides.reading import KINDS
from ovsslib.recipe import Recipe
from ovsslib.segmenter import Segmenter


@dataclass(frozen=True)
class Difference:
    """Mean over pictures of one agreement minus another, with its paired interval (`level` certainty)."""

    value: float
    low: float
    high: float
    level: float = 0.95


def patch_labels(label: np.ndarray, patch: int) -> np.ndarray:
    """The commonest label of each patch, the smallest of equals: (H, W) integers -> (H // patch, W // patch) int64."""
    height, width = (side // patch for side in label.shape)
    blocks = label[: height * patch, : width * patch].reshape(height, patch, width, patch)
    cells = torch.from_numpy(blocks.astype(np.int64)).permute(0, 2, 1, 3).flatten(2)
    return torch.mode(cells, dim=-1).values.numpy()


def agreement(
    features: Sequence[Tensor],
    labels: Sequence[np.ndarray],
    neighbours: int = 20,
    within: bool = False,
    queries: int | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Mean label agreement of the patches of every picture with their nearest patches: (N,) from 0 to 1.

    features: of each picture, (D, h, w). labels: of each picture, (h, w); see :func:`patch_labels`. neighbours: how many
    are asked. within: they are patches of the same picture (never the patch itself), else of all other pictures. queries:
    patches of a picture that ask, drawn by `seed`; None: all. Raises DataError for sizes that do not go together.
    """
    if len(features) != len(labels) or len(features) < (1 if within else 2):
        raise DataError(
            f"{len(features)} feature maps and {len(labels)} label maps: give as many of both, two or more"
        )
    for index, (map_, label) in enumerate(zip(features, labels, strict=True)):
        if map_.shape[1:] != label.shape or label.size <= neighbours:
            raise DataError(
                f"picture {index}: features {tuple(map_.shape)} and labels {label.shape} must have one grid of more "
                f"than {neighbours} patches"
            )
    rows = [F.normalize(map_.flatten(1).T.float(), dim=1) for map_ in features]
    targets = [torch.from_numpy(label.reshape(-1).astype(np.int64)) for label in labels]
    all_rows, every_target = torch.cat(rows), torch.cat(targets)
    picture = torch.repeat_interleave(
        torch.arange(len(rows)), torch.tensor([len(part) for part in rows])
    )
    generator = torch.Generator().manual_seed(seed)
    shares = np.zeros(len(rows))
    for index, patches in enumerate(rows):
        asking = torch.randperm(len(patches), generator=generator)[:queries]
        if within:
            near = patches[asking] @ patches.T
            near[torch.arange(len(asking)), asking] = -torch.inf
            answers = targets[index][near.topk(neighbours, dim=1).indices]
        else:
            near = patches[asking] @ all_rows.T
            near[:, picture == index] = -torch.inf
            answers = every_target[near.topk(neighbours, dim=1).indices]
        shares[index] = float((answers == targets[index][asking][:, None]).float().mean())
    return shares


def paired_difference(a: np.ndarray, b: np.ndarray, level: float = 0.95) -> Difference:
    """Mean of a - b over pictures, with its t interval (the jackknife of a mean); NaN ends for one picture.

    a, b: (N,), of the same pictures. Raises DataError for sizes that differ, or no picture.
    """
    if a.shape != b.shape or a.ndim != 1 or not len(a):
        raise DataError(f"paired values must be of the same pictures, not {a.shape} and {b.shape}")
    gap = a - b
    if len(gap) == 1:
        return Difference(float(gap[0]), float("nan"), float("nan"), level)
    times = student.ppf((1 + level) / 2, len(gap) - 1)
    half = float(times * gap.std(ddof=1) / len(gap) ** 0.5)
    value = float(gap.mean())
    return Difference(value, value - half, value + half, level)


def _whole_patches(image: np.ndarray, patch: int) -> Tensor:
    """(1, 3, H', W') float32, 0 to 1, of (H, W, 3) uint8: what is left of the sides beyond whole patches is cut off."""
    height, width = (side // patch * patch for side in image.shape[:2])
    return torch.from_numpy(image[:height, :width].copy()).permute(2, 0, 1)[None].float() / 255


@torch.no_grad()
def guide_maps(guide: Guide, image: np.ndarray) -> dict[str, Tensor]:
    """Every kind of features of a guide for a picture (H, W, 3) uint8: kind -> (D, h, w). What is left of the sides
    beyond whole patches is cut off."""
    reading = guide.read(guide.normalise(_whole_patches(image, guide.patch_size)))
    return {kind: reading.features(kind)[0] for kind in KINDS}


def mean_colour(guide: Guide, image: np.ndarray) -> Tensor:
    """What a guide has to beat: the mean colour of each of its patches of a picture (H, W, 3) uint8, normalised as it
    sees the picture: (3, h, w)."""
    pixels = guide.normalise(_whole_patches(image, guide.patch_size))
    return F.avg_pool2d(pixels, guide.patch_size)[0]


@torch.no_grad()
def clip_maps(
    backbone: Backbone, image: np.ndarray, recipes: Sequence[str] = ("maskclip", "sclip", "naclip")
) -> dict[str, Tensor]:
    """Patch features of a CLIP for a picture (H, W, 3) uint8, whole: name -> (D, h, w).

    q, k and v of the last block, the tokens that enter it, and the projected features of some recipes.
    """
    pixels = _whole_patches(image, backbone.patch_size)
    mean, std = (torch.tensor(values)[:, None, None] for values in (PIXEL_MEAN, PIXEL_STD))
    pixels = ((pixels - mean) / std).to(backbone.device)
    last = backbone.layers - 1
    trunk = backbone.trunk(pixels, taps=[last])
    tap = trunk.taps[last]
    tokens = {"input of the last block": trunk.tokens[0]}
    for kind in ("q", "k", "v"):
        tokens[kind] = getattr(tap, kind)[0].transpose(0, 1).flatten(1)
    maps = {name: x[1:].float().T.unflatten(1, trunk.grid) for name, x in tokens.items()}
    for name in recipes:
        features = Segmenter(backbone, Recipe.named(name)).features(pixels)
        maps[name] = features[0].permute(2, 0, 1).float()
    return maps


def on_grid(maps: Mapping[str, Tensor], grid: tuple[int, int]) -> dict[str, Tensor]:
    """Maps (D, h, w) brought to another grid, bilinearly: what a method does that needs them there."""
    return {
        name: F.interpolate(map_[None], grid, mode="bilinear")[0] for name, map_ in maps.items()
    }
